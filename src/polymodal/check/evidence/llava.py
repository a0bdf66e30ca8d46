"""LLaVA's official layout against a composition of transformers' CLIP and LLaMA with the official connector.

The official code needs another version of transformers; what it adds to the two models is a linear or two and a splice,
which are written out here once more: for each picture, hidden_states[select_layer] without the class token, projected,
in place of the picture's run of -200.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from polymodal.check import library, randomise
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.checkpoints.record import CheckpointFormat
from polymodal.systems import Variant
from polymodal.systems.llava import SYSTEM
from polymodal.weights.build import nothing_drawn

IMAGE = -200
VISION = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 7}  # fmt: skip
TEXT = {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 99}  # fmt: skip


class Composite(nn.Module):
    """CLIP, a connector of `depth` linears and a LLaMA of the library, joined as the official code joins them."""

    def __init__(self, transformers: Any, depth: int, text: Mapping[str, Any], vision: Mapping[str, Any],
                 layer: int) -> None:  # fmt: skip
        super().__init__()
        self.layer = layer
        self.tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)).eval()
        self.text = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text)).eval()
        widths = [vision["hidden_size"], *[text["hidden_size"]] * depth]
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.connector = nn.Sequential(*[part for linear in linears for part in (linear, nn.GELU())][:-1])

    def features(self, pixels: Tensor) -> Tensor:
        return self.connector(library.layer(self.tower, self.layer, pixels)[:, 1:])

    def embeds(self, ids: Tensor, pixels: Tensor, marks: tuple[int, ...]) -> Tensor:
        embeds = library.embedded(self.text, ids.clamp_min(0))
        embeds[torch.isin(ids, torch.tensor(marks))] = self.features(pixels).flatten(0, 1)
        return embeds

    def on_disk(self, linear: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The official checkpoint's tensors, and those of the tower beside it."""
        between = {f"model.mm_projector.{name.removeprefix('0.') if linear else name}": tensor
                   for name, tensor in self.connector.state_dict().items()}  # fmt: skip
        return {**library.names_on_disk(self.text), **between}, self.tower.state_dict()


def inputs(mark: int, around: tuple[list[int], list[int]], side: int = 28, tokens: int = 16) -> Tensors:
    """Two rows padded on the left: one picture between texts; two pictures, the last at the end."""
    words = randomise.ids("words", (24,), 3, 90).tolist()
    picture = [*around[0], *[mark] * tokens, *around[1]]
    rows = [words[:5] + picture + words[5:9], words[9:12] + picture + words[12:19] + picture]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "images": randomise.values("pixels", (3, 3, side, side))}


LLAVA = {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How an official checkpoint is kept.  named: `model_type` and `architectures`; tower: the folder in it that holds
    the tower; inside: the tower lies among the other weights too, as in 1.6; added: the words that were appended to the
    vocabulary, 3 for <im_patch>, <im_start>, <im_end>, 1 for the first alone."""

    named: Mapping[str, Any] = field(default_factory=lambda: LLAVA)
    tower: str = "clip"
    inside: bool = False
    added: int = 0


def case(
    name: str, layout: Layout = Layout(), *, depth: int = 1, layer: int = -2,
    vision: Mapping[str, Any] | None = None, **text: Any,
) -> Case:  # fmt: skip
    """An official checkpoint of test size; vision and text: what differs from VISION and TEXT."""
    seen, read = {**VISION, **(vision or {})}, {**TEXT, **text}
    inside, marked = layout.inside, layout.added == 3
    mark = read["vocab_size"] - layout.added if layout.added else IMAGE

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers:
            oracle = Composite(transformers, depth, read, seen, layer)
            randomise.fill(oracle)
            linear = depth == 1
            whole, tower = oracle.on_disk(linear)
            tower_dir = folder / layout.tower
            library.saved(oracle.tower, tower_dir)
            if inside:
                whole |= {f"model.vision_tower.vision_tower.vision_model.{key}": x for key, x in tower.items()}
            save_file({key: x.contiguous() for key, x in whole.items()}, folder / "model.safetensors")
            config = {**read, **layout.named, "mm_vision_tower": str(tower_dir), "mm_vision_select_layer": layer,
                      "mm_hidden_size": seen["hidden_size"],
                      "mm_projector_type": "linear" if linear else f"mlp{depth}x_gelu",
                      "mm_use_im_start_end": marked}  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            given = inputs(mark, ([mark + 1], [mark + 2]) if marked else ([], []), seen["image_size"],
                           (seen["image_size"] // seen["patch_size"]) ** 2)  # fmt: skip
            with torch.no_grad():
                embeds = oracle.embeds(given["input_ids"], given["images"], (IMAGE, mark))
                prompt = {"inputs_embeds": embeds, "attention_mask": given["attention_mask"]}
                logits = library.logits(oracle.text, prompt)
                new = library.greedy(oracle.text, prompt, {})
        alone = []
        for row, chosen in ((0, slice(0, 1)), (1, slice(1, 3))):
            ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
            alone.append((row, {"input_ids": ids, "images": given["images"][chosen]}))
        return Expected(inputs=given, logits=logits, generated=torch.cat((given["input_ids"], new), 1), alone=alone)

    return Case(name=name, make=make, needs="transformers")


def size(variant: Variant, names: Callable[[int, int], dict[str, tuple[int, ...]]], inside: bool = False) -> Size:
    """Names and shapes of the library's LLaMA and CLIP at published size, and the official connector's."""

    @cache
    def shapes() -> Shapes:
        config = dict(variant.config or {})
        with library.quiet() as transformers, nothing_drawn():
            keep = library.settings(transformers.LlamaConfig())
            text = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(**{name: value for name, value in config.items() if name in keep})
            )
            side = 224 if config["mm_vision_tower"].endswith("patch14") else 336
            tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                image_size=side, patch_size=14))  # fmt: skip
        found = {name: tuple(x.shape) for name, x in text.state_dict().items()}
        prefix = "model.vision_tower.vision_tower.vision_model."
        found |= {prefix + name: tuple(x.shape) for name, x in tower.state_dict().items()}
        return found | names(1024, config["hidden_size"])

    def parameters() -> int:
        return sum(int(torch.Size(shape).numel()) for shape in shapes().values())

    source = "transformers LlamaForCausalLM and CLIPVisionModel on the meta device, the connector's names as published"
    return Size(variant=variant.name, shapes=shapes, source=source, parameters=parameters, needs="transformers")


def linear_names(width: int, out: int) -> dict[str, tuple[int, ...]]:
    return {"model.mm_projector.weight": (out, width), "model.mm_projector.bias": (out,)}


def small(vocabulary: int, tower: Path, layers: int = 3, **more: Any) -> dict[str, Any]:
    """A config.json for training checks and demonstration, and its tower's: 16 tokens a picture of 56 x 56.

    layers: of the tower.  more: further settings, or others.
    """
    tower.mkdir(parents=True, exist_ok=True)
    vision = {"model_type": "clip_vision_model", "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4,
              "num_hidden_layers": layers, "image_size": 56, "patch_size": 14}  # fmt: skip
    (tower / "config.json").write_text(json.dumps(vision), encoding="utf-8")
    return {**LLAVA, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": vocabulary, "mm_vision_tower": str(tower), "mm_use_im_start_end": True, **more}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; both stages differ only in what trains."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = SYSTEM.formats[0].model_spec(small(40, Path(directory))).build()
    return caption_check(model, [38, *[37] * 16, 39], side=56)


def official_names(format: CheckpointFormat, **more: Any) -> int:
    """A tiny LLaVA in an official layout, trained on eight pictures: how many `chat` names.  more: further settings;
    `mm_use_im_start_end` is false by default, as in the official code."""
    torch.manual_seed(0)
    marked = more.setdefault("mm_use_im_start_end", False)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        tokens = {"<s>": 0, "</s>": 1} | ({"<im_patch>": 258, "<im_start>": 259, "<im_end>": 260} if marked else {})
        size = byte_tokenizer(folder, tokens, bos="<s>", eos="</s>", pad="</s>")
        config = small(size, folder / "clip", **more)
        return train_fresh_and_chat(folder, format, config, steps=80, generation_config={"eos_token_id": 1})


def official_headline(format: CheckpointFormat, **more: Any) -> HeadlineResult:
    """`official_names` as the headline of that layout."""
    right = official_names(format, **more)
    return HeadlineResult(ok=right == 8, evidence=f"chat names {right} of 8 pictures")


def headline() -> HeadlineResult:
    """A tiny LLaVA in the official layout is trained on eight real pictures and asked about each by `chat`."""
    marked = official_names(SYSTEM.formats[0], mm_use_im_start_end=True)
    plain = official_names(SYSTEM.formats[0])
    return HeadlineResult(
        ok=marked == plain == 8,
        evidence=f"tiny weights trained on 8 pictures: chat names {marked} of them with `<im_start>` and `<im_end>` "
        f"around the picture, {plain} without (published weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers CLIPVisionModel and LlamaForCausalLM, joined as the official code joins them",
    cases=(
        case("one linear, pictures at -200"),
        case("<im_patch> between <im_start> and <im_end>, another layer", Layout(added=3), layer=-1),
        case("tower inside the checkpoint", Layout(inside=True), rms_norm_eps=1e-3),
    ),
    published=tuple(size(variant, linear_names) for variant in SYSTEM.variants),
    training_checks={"align": training_check, "instruct": training_check},
    headline=headline,
)  # fmt: skip
