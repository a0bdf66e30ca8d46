"""LLaMA-VID against transformers' EVA ViT, InstructBLIP's Q-Former and LLaMA, joined as the official code joins them.

What the official code adds is written out: the norm in front of the Q-Former, one attention from its queries to the
patches of a frame, and the pooling of these.  Its files have EVA's and LAVIS's names, without biases of keys in EVA.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from polymodal.check import library, randomise, real
from polymodal.check.demo import Sample, byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.blip_2 import official_names
from polymodal.check.evidence.llava import TEXT
from polymodal.check.film import film, zoomed
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, TrainingCheck
from polymodal.check.training import caption_check, letters
from polymodal.data.media import Video
from polymodal.systems import Variant
from polymodal.systems.llama_vid import SYSTEM
from polymodal.systems.llama_vid.checkpoint import INSIDE, PLACEHOLDERS, READER
from polymodal.weights.build import nothing_drawn

NAMED: dict[str, Any] = {"model_type": "llava", "architectures": ["LlavaLlamaAttForCausalLM"],
                         "bert_type": "qformer_pretrain", "mm_projector_type": "mlp2x_gelu"}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 7}  # fmt: skip
ASKED = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36,
         "vocab_size": 60}  # fmt: skip
QUERIES, COUNTS = 5, (2, 3)


class Composite(nn.Module):
    """EVA, Q-Former, LLaMA and the official layers between them; grid: content tokens a side, 0 for all patches."""

    def __init__(self, transformers: Any, text: Mapping[str, Any], vision: Mapping[str, Any], asked: Mapping[str, Any],
                 grid: int) -> None:  # fmt: skip
        super().__init__()
        self.grid, width, out = grid, vision["hidden_size"], text["hidden_size"]
        self.vision_model = transformers.InstructBlipVisionModel(transformers.InstructBlipVisionConfig(**vision)).eval()
        self.qformer = transformers.InstructBlipQFormerModel(
            transformers.InstructBlipQFormerConfig(**asked, encoder_hidden_size=width)
        ).eval()
        self.text = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text)).eval()
        self.queries = nn.Parameter(torch.zeros(1, QUERIES, asked["hidden_size"]))
        self.ln = nn.LayerNorm(width)
        self.projector = nn.Linear(asked["hidden_size"], width)
        self.key_projector, self.val_projector = nn.Linear(width, width), nn.Linear(width, out)
        self.mm_projector = nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))

    def features(self, frames: Tensor, questions: Sequence[tuple[int, Tensor, Tensor]]) -> list[Tensor]:
        """questions: for each item its number of frames, ids [L] and mask [L]."""
        found, start = [], 0
        for count, ids, mask in questions:
            seen = library.layer(self.vision_model, -1, frames[start : start + count])
            full = torch.cat((torch.ones(count, QUERIES, dtype=torch.int64), mask.expand(count, -1)), 1)
            states = library.states(self.qformer(
                ids.expand(count, -1), attention_mask=full, query_embeds=self.queries.expand(count, -1, -1),
                encoder_hidden_states=self.ln(seen)))[:, :QUERIES]  # fmt: skip
            patches, start = seen[:, 1:], start + count
            scores = self.projector(states) @ self.key_projector(patches).transpose(-1, -2) / patches.shape[-1] ** 0.5
            context = self.val_projector((scores.softmax(-1) @ patches).mean(1)[:, None])
            content = self.mm_projector(self.pooled(patches))
            found.append(torch.cat((context, content), 1).flatten(0, 1))
        return found

    def pooled(self, patches: Tensor) -> Tensor:
        if not self.grid:
            return patches
        side = round(patches.shape[1] ** 0.5)
        maps = patches.reshape(len(patches), side, side, -1).permute(0, 3, 1, 2)
        return F.avg_pool2d(maps, kernel_size=side // self.grid).permute(0, 2, 3, 1).flatten(1, 2)

    def official(self) -> Composite:
        """Without biases of keys in EVA, as the official code has none."""
        for layer in library.part(self.vision_model, "encoder.layers"):
            library.part(layer, "self_attn.qkv").bias.data.chunk(3)[1].zero_()
        return self

    def on_disk(self, width: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The checkpoint's tensors, and those of EVA's file."""
        state = self.state_dict()
        parts = {name: x for name, x in state.items() if name.startswith(("vision_model.", "qformer."))}
        named = official_names(parts, width, ())
        eva = {name.removeprefix("visual_encoder."): x for name, x in named.items() if name.startswith("visual_")}
        whole = {name.replace("Qformer.", "model.vlm_att_encoder."): x
                 for name, x in named.items() if name.startswith("Qformer.")}  # fmt: skip
        whole |= {name.removeprefix("text."): x for name, x in state.items() if name.startswith("text.")}
        whole["model.vlm_att_query"] = state["queries"]
        for name in ("ln", "projector", "key_projector", "val_projector"):
            whole |= {f"model.vlm_att_{name}.{leaf}": state[f"{name}.{leaf}"] for leaf in ("weight", "bias")}
        whole |= {f"model.{name}": x for name, x in state.items() if name.startswith("mm_projector.")}
        return whole, eva


def case(name: str, modality: str, *, grid: int = 0, side: int = 28, **text: Any) -> Case:
    """A checkpoint of test size; grid: as for `Composite`; side: of frames, where it is not that of EVA's positions."""
    read = {**TEXT, **text}
    compress = None if not grid else "mean" if grid == 1 else f"grid:{grid}"

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            oracle = Composite(transformers, read, {**VISION, "image_size": side}, ASKED, grid)
            randomise.fill(oracle)
            oracle.official()
            whole, eva = oracle.on_disk(VISION["hidden_size"])
            if side != VISION["image_size"]:  # the file has positions of another side, which official code resizes
                rows = (VISION["image_size"] // VISION["patch_size"]) ** 2 + 1
                eva["pos_embed"] = randomise.tensor("pos_embed", (1, rows, VISION["hidden_size"]))
                library.part(oracle.vision_model, "embeddings").position_embedding.data = resized(
                    eva["pos_embed"], side
                )
            save_file({key: x.contiguous() for key, x in whole.items()}, folder / "model.safetensors")
            torch.save({**eva, "blocks.39.norm1.weight": torch.ones(3), "norm.weight": torch.ones(3)},
                       folder / "eva_vit_g.pth")  # fmt: skip
            config = {**read, **NAMED, "vision_config": VISION, "qformer_config": ASKED, "num_query": QUERIES,
                      "mm_vision_tower": "./model_zoo/LAVIS/eva_vit_g.pth", "compress_type": compress,
                      "image_processor": f"./processor/clip-patch14-{side}"}  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            return _expected(oracle, modality, side, grid)

    return Case(name=name, make=make, needs="transformers")


def resized(positions: Tensor, side: int) -> Tensor:
    """EVA's positions [1, 1 + s * s, D] for another side, bicubically, the class token's kept."""
    old = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side // VISION["patch_size"],) * 2, mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)), 1)


def _expected(oracle: Composite, modality: str, side: int, grid: int) -> Expected:
    """Two rows padded on the left: one item between texts; another at the end.  Pictures are items of one frame."""
    counts = COUNTS if modality == "video" else (1, 1)
    mark, prefix = PLACEHOLDERS[modality], "video_" if modality == "video" else ""
    tokens = 1 + (grid**2 or (side // VISION["patch_size"]) ** 2)
    words = randomise.ids("words", (24,), 3, 90).tolist()
    rows = [words[:5] + [mark] * tokens * counts[0] + words[5:9], words[9:21] + [mark] * tokens * counts[1]]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    asked, asked_mask = randomise.ids("questions", (2, 6), 3, 60), torch.ones(2, 6, dtype=torch.int64)
    asked_mask[1, 4:] = 0
    frames = randomise.values("frames", (sum(counts), 3, side, side))
    features = oracle.features(frames, list(zip(counts, asked, asked_mask, strict=True)))
    embeds = library.embedded(oracle.text, ids.clamp_min(0))
    embeds[ids == mark] = torch.cat(features)
    prompt = {"inputs_embeds": embeds, "attention_mask": mask}

    def media(items: slice, shown: slice) -> dict[str, Any]:
        named = {"video_values": frames[shown], "frame_counts": counts[items]} if prefix else {}
        named = named or {"pixel_values": frames[shown]}
        return {
            **named,
            f"{prefix}qformer_input_ids": asked[items],
            f"{prefix}qformer_attention_mask": asked_mask[items],
        }

    alone = [(row, {"input_ids": ids[row][mask[row].bool()][None], **media(slice(row, row + 1), shown)})
             for row, shown in ((0, slice(0, counts[0])), (1, slice(counts[0], None)))]  # fmt: skip
    return Expected(
        inputs={"input_ids": ids, "attention_mask": mask, **media(slice(0, 2), slice(None))},
        logits=library.logits(oracle.text, prompt), features={modality: features},
        generated=torch.cat((ids, library.greedy(oracle.text, prompt, {})), 1), alone=alone,
    )  # fmt: skip


def size(variant: Variant) -> Size:
    """The library's parts at published size under official names, on the meta device."""

    @cache
    def shapes() -> Shapes:
        config = dict(variant.config or {})
        with library.quiet() as transformers, nothing_drawn():
            keep = library.settings(transformers.LlamaConfig())
            text = {name: value for name, value in config.items() if name in keep and name != "rope_scaling"}
            wide = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
                    "image_size": 224, "patch_size": 14}  # fmt: skip
            bert = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                    "vocab_size": 30523}  # fmt: skip
            oracle = Composite(transformers, text, wide, bert, 1)
            oracle.queries = nn.Parameter(torch.zeros(1, 32, 768))
            whole, eva = oracle.on_disk(1408)
        found = {name: tuple(x.shape) for name, x in whole.items()}
        return found | {INSIDE + name: tuple(x.shape) for name, x in eva.items()}

    def parameters() -> int:
        grid = (int(str((variant.config or {})["image_processor"]).rsplit("-", 1)[1]) // 14) ** 2 - 16**2
        return sum(int(torch.Size(shape).numel()) for shape in shapes().values()) + grid * 1408

    source = "transformers' EVA ViT, Q-Former and LLaMA on the meta device under official names; positions as in use"
    return Size(variant=variant.name, shapes=shapes, source=source, parameters=parameters, needs="transformers")


def small(vocabulary: int, words: int) -> dict[str, Any]:
    """A config.json for training checks and demonstration: 2 tokens a frame of 56 x 56."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
              "image_size": 56, "patch_size": 14}  # fmt: skip
    asked = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return {**NAMED, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": vocabulary, "vision_config": vision, "qformer_config": {**asked, "vocab_size": words},
            "num_query": 4, "mm_vision_tower": "eva_vit_g.pth", "compress_type": "mean"}  # fmt: skip


def training_check() -> TrainingCheck:
    """Films of a picture that turns upside down, and its name letter by letter."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 40)).build()
    pixels, asked = real.pixels(56), torch.tensor([[1, *letters("what is it"), 2]])

    def films(rows: list[int]) -> dict[str, Any]:
        frames = torch.stack((pixels[rows], pixels[rows].flip(2)), 1).flatten(0, 1)
        ids = asked.expand(len(rows), -1)
        return {"pixel_values": None, "video_values": frames, "frame_counts": (2,) * len(rows),
                "video_qformer_input_ids": ids, "video_qformer_attention_mask": torch.ones_like(ids)}  # fmt: skip

    return caption_check(model, [PLACEHOLDERS["video"]] * 4, side=56, more=films, steps=60)


def headline() -> HeadlineResult:
    """A tiny LLaMA-VID in the official layout watches eight films of real pictures and is asked about each."""
    torch.manual_seed(0)
    samples: list[Sample] = [(Video(film(zoomed(picture, 8))), name) for picture, name in real.pictures()[:8]]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / READER).mkdir()
        words = byte_tokenizer(folder / READER, ["[PAD]", "[CLS]", "[SEP]"], pad="[PAD]")
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], small(size, words), steps=200, samples=samples,
                                     generation_config={"eos_token_id": 2})  # fmt: skip
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 films of pictures that come nearer, 2 frames of 2 tokens each: chat names "
        f"what {right} of them show (published weights were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers InstructBlipVisionModel, InstructBlipQFormerModel and LlamaForCausalLM, joined as the "
    "official code joins them",
    cases=(
        case("videos, two tokens a frame", "video", grid=1),
        case("videos, a grid of tokens, one block", "video", grid=2, num_hidden_layers=1, num_key_value_heads=4),
        case("pictures, every patch, resized positions", "image", side=42),
    ),
    published=tuple(map(size, SYSTEM.variants)),
    training_checks={"align": training_check, "instruct": training_check, "long video": training_check},
    headline=headline,
)  # fmt: skip
