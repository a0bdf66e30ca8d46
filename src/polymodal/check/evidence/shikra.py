"""Shikra against a composition of transformers' CLIP and LLaMA with the official connector (evidence/llava.py).

The official code adds nothing to LLaVA's first as far as outputs go; boxes and prompts are in tests/systems.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow

from polymodal.check import real
from polymodal.check.demo import Sample, byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.llava import Layout, case, linear_names, size, small
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.media import Image
from polymodal.systems.shikra import PLACES, SYSTEM

SHIKRA: dict[str, Any] = {"model_type": "shikra", "architectures": ["ShikraLlamaForCausalLM"]}
SPECIALS = {"<unk>": 0, "<s>": 1, "</s>": 2, "<im_patch>": 259, "<im_start>": 260, "<im_end>": 261}


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ in their data alone."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = SYSTEM.formats[0].model_spec(small(40, Path(directory), **SHIKRA)).build()
    return caption_check(model, [38, *[37] * 16, 39], side=56)


def placed_pictures() -> Iterator[Sample]:
    """Eight real drawings, each in a part of an oblong grey canvas, and the box around it as the answer."""
    corners = [(column * 32, row * 32) for row in range(2) for column in range(4)]
    for (drawing, _), (left, top) in zip(real.pictures(), corners, strict=False):
        canvas = Pillow.new("RGB", (128, 64), (90, 90, 90))
        canvas.paste(drawing.resize((32, 32)), (left, top))
        box = (left / 128, top / 64, (left + 32) / 128, (top + 32) / 64)
        yield Image(canvas), PLACES.write([box], canvas.size)


def headline() -> HeadlineResult:
    """A tiny Shikra in the official layout is trained to say where drawings are, and asked about each by `chat`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        vocabulary = byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
        config = small(vocabulary, folder / "clip", **SHIKRA)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=400, samples=list(placed_pictures()),
                                     generation_config={"eos_token_id": 2})  # fmt: skip
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 drawings at different places: chat writes the box of {right} of them "
        "(published weights are differences to LLaMA and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers CLIPVisionModel and LlamaForCausalLM, joined as the official code joins them",
    cases=(
        case("<im_patch> between <im_start> and <im_end>", Layout(named=SHIKRA, added=3)),
        case("<im_patch> alone, odd widths, the last layer", Layout(named=SHIKRA, added=1), layer=-1,
             vision={"patch_size": 14, "hidden_size": 36, "intermediate_size": 50, "image_size": 42},
             num_hidden_layers=1, hidden_size=24, intermediate_size=54, num_key_value_heads=1),
    ),
    published=tuple(size(variant, linear_names) for variant in SYSTEM.variants),
    training_checks={"places": training_check, "dialogue": training_check},
    headline=headline,
)  # fmt: skip
