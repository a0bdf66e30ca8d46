"""GroundingGPT against transformers' CLIP, EVA ViT, Q-Formers and LLaMA, joined as the official code joins them.

ImageBind is not in transformers: its branch of sound is the project's own here, which `imagebind` compares with the
official code; what stands behind it is not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from polymodal.check import library, randomise, real
from polymodal.check.demo import Sample, byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.blip_2 import official, official_names
from polymodal.check.evidence.llava import TEXT, VISION
from polymodal.check.evidence.shikra import placed_pictures
from polymodal.check.film import film, zoomed
from polymodal.check.fixture import packed_size
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data import imagebind_inputs
from polymodal.data.media import Video
from polymodal.encoders import imagebind_keys
from polymodal.encoders.frames import FrameEncoder
from polymodal.systems.lego import PLACES, SYSTEM
from polymodal.weights.build import nothing_drawn

NAMED: dict[str, Any] = {"model_type": "LEGO", "architectures": ["LEGOLlamaForCausalLM"]}
EVA = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
       "image_size": 28, "patch_size": 14}  # fmt: skip
ASKED = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36}
SMALL = {"embed_dim": 32, "num_blocks": 1, "num_heads": 2}
BOUND = {f"{name}_{kind}": value for name in imagebind_keys.MODALITIES for kind, value in SMALL.items()}
BOUND |= {"out_embed_dim": 20}
Sizes = Mapping[str, Any]
QUERIES, SEEN, HEARD, COUNTS = 3, 5, 4, (2, 3)


class Composite(nn.Module):
    """The library's parts and the official layers between them; bound: ImageBind's sizes; queries: of each Q-Former."""

    def __init__(self, transformers: Any, text: Sizes, vision: Sizes, eva: Sizes, asked: Sizes, bound: Sizes,
                 queries: tuple[int, int, int]) -> None:  # fmt: skip
        super().__init__()
        out, wide = text["hidden_size"], asked["hidden_size"]
        heard = {**imagebind_keys.DEFAULTS, **bound}["out_embed_dim"]

        def qformer(width: int, **more: Any) -> Any:
            config = transformers.Blip2QFormerConfig(**{**asked, **more}, encoder_hidden_size=width)
            return transformers.Blip2QFormerModel(config).eval()

        self.tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)).eval()
        self.mm_vision_projector = nn.Sequential(nn.Linear(vision["hidden_size"], out), nn.GELU(), nn.Linear(out, out))
        self.vision_model = transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**eva)).eval()
        over_time = {"num_hidden_layers": 2, "cross_attention_frequency": 1}
        self.qformer, self.video = qformer(eva["hidden_size"]), qformer(wide, **over_time)
        self.audio = qformer(heard, **over_time)
        for name, count in zip(("query_tokens", "video_query_tokens", "audio_query_tokens"), queries, strict=True):
            setattr(self, name, nn.Parameter(torch.zeros(1, count, wide)))
        self.video_frame_position_embedding = nn.Embedding(64, wide)
        self.audio_position_embedding = nn.Embedding(queries[2], heard)
        self.llama_proj, self.audio_llama_proj = nn.Linear(wide, out), nn.Linear(wide, out)
        self.ears = FrameEncoder(imagebind_keys.imagebind(bound, "audio"))
        self.text = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text)).eval()

    def asked(self, model: Any, queries: Any, source: Tensor) -> Tensor:
        return library.states(model(query_embeds=queries.expand(len(source), -1, -1), encoder_hidden_states=source))

    def images(self, pixels: Tensor) -> Tensor:
        return self.mm_vision_projector(library.layer(self.tower, -2, pixels)[:, 1:])

    def videos(self, frames: Tensor, counts: tuple[int, ...]) -> Tensor:
        found = []
        for item in frames.split(list(counts)):
            states = self.asked(self.qformer, self.query_tokens, library.states(self.vision_model(item)))
            states = states + self.video_frame_position_embedding.weight[: len(item), None]
            found.append(self.llama_proj(self.asked(self.video, self.video_query_tokens, states.flatten(0, 1)[None])))
        return torch.cat(found)

    def audios(self, clips: Tensor) -> Tensor:
        states = self.ears(clips) + self.audio_position_embedding.weight[: clips.shape[1]]
        return self.audio_llama_proj(self.asked(self.audio, self.audio_query_tokens, states))

    def on_disk(self, width: int) -> dict[str, Tensor]:
        """The checkpoint's tensors; width: of EVA."""
        state, whole = self.state_dict(), dict[str, Tensor]()
        for ours, theirs in (("qformer", ""), ("video", "video_"), ("audio", "audio_")):
            part = {f"qformer.{name.removeprefix(f'{ours}.')}": x for name, x in state.items()
                    if name.startswith(f"{ours}.")}  # fmt: skip
            whole |= {theirs + name: x for name, x in official_names(part, 0, ()).items()}
        eva = {name: x for name, x in state.items() if name.startswith("vision_model.")}
        whole |= official_names(eva, width, ())
        heard = {name.removeprefix("ears.encoder."): x for name, x in state.items() if name.startswith("ears.encoder.")}
        inverse = imagebind_keys.keys("audio").inverse().apply(heard) if heard else ()
        whole |= {f"audio_encoder.{name}": x for name, x in inverse}
        starts = ("mm_", "video_frame", "audio_position", "llama_proj", "audio_llama")
        whole |= {name: x for name, x in state.items() if name.endswith("query_tokens") or name.startswith(starts)}
        text = {name.removeprefix("text."): x for name, x in state.items() if name.startswith("text.")}
        return {f"model.{name}": x for name, x in whole.items()} | text


def case(name: str, modality: str, **text: Any) -> Case:
    """A checkpoint of test size and items of one modality."""
    read = {**TEXT, **text}

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            oracle = Composite(transformers, read, VISION, EVA, ASKED, BOUND, (QUERIES, SEEN, HEARD))
            randomise.fill(oracle)
            official(oracle)
            library.saved(oracle.tower, folder / "clip")
            whole = oracle.on_disk(EVA["hidden_size"])
            save_file({key: x.contiguous() for key, x in whole.items()}, folder / "model.safetensors")
            config = {**read, **NAMED, "mm_vision_tower": str(folder / "clip"), "vision_config": EVA,
                      "qformer_config": ASKED, "imagebind": BOUND, "num_query_token": QUERIES,
                      "video_token_len": SEEN, "sound_token_len": HEARD}  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            return _expected(oracle, modality, read["vocab_size"])

    return Case(name=name, make=make, needs="transformers")


def _expected(oracle: Composite, modality: str, vocabulary: int) -> Expected:
    """Two rows padded on the left: one item between texts; another at the end."""
    counts: tuple[int, ...] = COUNTS
    if modality == "image":
        values: dict[str, Any] = {"pixel_values": randomise.values("pixels", (2, 3, 28, 28))}
        features, mark = oracle.images(values["pixel_values"]), vocabulary - 9
    elif modality == "video":
        values = {"video_values": randomise.values("frames", (sum(counts), 3, 28, 28)), "frame_counts": counts}
        features, mark = oracle.videos(values["video_values"], counts), vocabulary - 6
    else:
        values = {"audio_values": randomise.values("clips", (2, 3, 1, 128, 204))}
        features, mark = oracle.audios(values["audio_values"]), vocabulary - 3
    words = randomise.ids("words", (24,), 3, 80).tolist()
    shown = [mark + 1, *[mark] * features.shape[1], mark + 2]
    rows = [words[:5] + shown + words[5:9], words[9:20] + shown]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    embeds = library.embedded(oracle.text, ids)
    embeds[ids == mark] = features.flatten(0, 1)
    prompt = {"inputs_embeds": embeds, "attention_mask": mask}

    def own(row: int) -> dict[str, Any]:
        if modality != "video":
            return {name: x[row : row + 1] for name, x in values.items()}
        start = sum(counts[:row])
        frames = values["video_values"][start : start + counts[row]]
        return {"video_values": frames, "frame_counts": counts[row : row + 1]}

    alone = [(row, {"input_ids": ids[row][mask[row].bool()][None], **own(row)}) for row in (0, 1)]
    return Expected(
        inputs={"input_ids": ids, "attention_mask": mask, **values}, logits=library.logits(oracle.text, prompt),
        features={modality: features}, alone=alone,
        generated=torch.cat((ids, library.greedy(oracle.text, prompt, {})), 1),
    )  # fmt: skip


def size() -> Size:
    """The library's parts at published size under official names, and ImageBind's published list."""

    @cache
    def shapes() -> Shapes:
        config = dict(SYSTEM.variants[0].config or {})
        with library.quiet() as transformers, nothing_drawn():
            keep = library.settings(transformers.LlamaConfig())
            text = {name: value for name, value in config.items() if name in keep}
            clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                    "image_size": 336, "patch_size": 14}  # fmt: skip
            eva = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
                   "image_size": 224, "patch_size": 14}  # fmt: skip
            bert = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
            oracle = Composite(transformers, text, clip, eva, bert, imagebind_keys.HUGE, (32, 64, 8))
            tower = {name: tuple(x.shape) for name, x in oracle.tower.state_dict().items()}
            del oracle.ears
            found = {name: tuple(x.shape) for name, x in oracle.on_disk(1408).items()}
        bound = packed_size("imagebind_sizes", "huge", 0).shapes()
        found |= {f"model.audio_encoder.{name}": tuple(shape) for name, shape in bound.items()}
        return found | {f"model.vision_tower.vision_tower.vision_model.{name}": shape for name, shape in tower.items()}

    def parameters() -> int:
        from polymodal.check.engine import buffer_name

        return sum(int(torch.Size(shape).numel()) for name, shape in shapes().items() if not buffer_name(name))

    source = "transformers' parts on the meta device under official names, and the published list of ImageBind"
    return Size(variant="7b", shapes=shapes, source=source, parameters=parameters, needs="transformers")


def small(vocabulary: int, tower: Path) -> dict[str, Any]:
    """A config.json for training checks and demonstration, and its tower's: 16 tokens a picture of 56 x 56."""
    tower.mkdir(parents=True, exist_ok=True)
    clip = {"model_type": "clip_vision_model", "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4,
            "num_hidden_layers": 3, "image_size": 56, "patch_size": 14}  # fmt: skip
    (tower / "config.json").write_text(json.dumps(clip), encoding="utf-8")
    return {**NAMED, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": vocabulary, "mm_vision_tower": str(tower), "vision_config": {**EVA, "image_size": 56},
            "qformer_config": ASKED, "imagebind": BOUND, "num_query_token": QUERIES, "video_token_len": 4,
            "sound_token_len": HEARD}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures, films of them and a piece of speech, and the names of the pictures, letter by letter."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = SYSTEM.formats[0].model_spec(small(49, Path(directory))).build()
    pixels, clips = real.pixels(56), imagebind_inputs.audio_clips(real.speech(), clips=3)

    def senses(rows: list[int]) -> dict[str, Any]:
        frames = torch.stack((pixels[rows], pixels[rows].flip(2)), 1).flatten(0, 1)
        return {"video_values": frames, "frame_counts": (2,) * len(rows),
                "audio_values": clips.expand(len(rows), -1, -1, -1, -1)}  # fmt: skip

    prompt = [41, *[40] * 16, 42, 44, *[43] * 4, 45, 47, *[46] * HEARD, 48]
    return caption_check(model, prompt, side=56, more=senses, batch=4)


def headline() -> HeadlineResult:
    """A tiny GroundingGPT says by `chat` where drawings are in pictures, and what films of drawings show."""
    torch.manual_seed(0)
    shown = list(placed_pictures())[:4]
    places = [(item, PLACES.write(*_place(answer, item))) for item, answer in shown]
    films: list[Sample] = [(Video(film(zoomed(picture, 4))), name) for picture, name in real.pictures()[:4]]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
        config = small(size + 9, folder / "clip")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=300, samples=[*places, *films])
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 4 drawings at different places and 4 films: chat writes {right} of the 8 "
        "boxes and names (published weights were not at hand)",
    )


def _place(answer: str, item: Any) -> tuple[list[tuple[float, ...]], tuple[int, int]]:
    """The box that Shikra's answer writes, and the size of its picture."""
    from polymodal.systems.shikra import PLACES as WRITTEN

    size = item.picture.size
    return list(WRITTEN.read(answer, size)[0]), size


EVIDENCE = Evidence(
    oracle="transformers CLIPVisionModel, Blip2VisionModel, Blip2QFormerModel and LlamaForCausalLM, joined as the "
    "official code joins them; ImageBind is the project's own",
    cases=(
        case("pictures", "image", num_hidden_layers=1),
        case("videos of unequal length", "video", vocab_size=117),
        case("sounds", "audio", vocab_size=117, num_hidden_layers=1, num_key_value_heads=4),
    ),
    published=(size(),),
    training_checks={"align": training_check, "ground": training_check},
    headline=headline,
    exceptions=(
        "frames of videos are squashed where the official transform crops them at random",
        "time spans: the released code neither writes nor reads a form of its own for them",
    ),
)  # fmt: skip
