"""MiniGPT-v2 against the official code, low-rank paths and all; its headline finds pictures on a page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.evidence import minigpt_4
from polymodal.check.fixture import fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.systems.minigpt_v2 import SYSTEM
from polymodal.systems.minigpt_v2.boxes import TASKS, Box, box_text, read_boxes


def small(vocabulary: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: pictures of 56 x 56, four features of them."""
    found = minigpt_4.small(vocabulary)
    return {**found, "model_type": "minigpt_v2", "lora_r": 4, "lora_alpha": 4, "has_qformer": False}


def training_check() -> TrainingCheck:
    """The linear and the low-rank paths alone let a frozen, random language model name pictures a little better."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [40] * 4 + [32], side=56, steps=60)


def scene(picture: Pillow.Image, index: int) -> tuple[Pillow.Image, Box]:
    """A picture pasted on white in one of four places, and its box in 0..1."""
    canvas, left, top = Pillow.new("RGB", (100, 100), "white"), 50 * (index % 2), 50 * (index // 2 % 2)
    canvas.paste(picture.resize((50, 50)), (left, top))
    return canvas, (left / 100, top / 100, (left + 50) / 100, (top + 50) / 100)


def headline() -> HeadlineResult:
    """A tiny MiniGPT-v2 in the official layout learns where eight pictures stand; `chat` writes their boxes."""
    torch.manual_seed(0)
    scenes = [(*scene(picture, index), name) for index, (picture, name) in enumerate(real.pictures()[:8])]
    asked = [(pm.image(seen), f"{TASKS['find']}give me the location of {name}", box) for seen, box, name in scenes]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>"))
        write_config(folder, config=config, preprocessor_config={"size": {"height": 56, "width": 56}})
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        talks = [[Message(role="user", parts=(seen, Text(words))),
                  Message(role="assistant", parts=(Text(box_text(box)),))] for seen, words, box in asked]  # fmt: skip
        train_on_conversations(pm.load(folder), talks, writer(folder, model_spec), steps=150)
        again = pm.load(folder)
        right = sum(read_boxes(again.chat(seen, words, max_tokens=32).text) == [box] for seen, words, box in asked)
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 scenes: asked with [refer], chat writes the right box of {right}, read "
        "from the text (the published parts were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("minigpt_v2"),
    cases=(
        minigpt_4.case("two low-rank paths, several pictures", "minigpt_v2"),
        minigpt_4.case("grouped heads, one layer, odd widths", "minigpt_v2_grouped"),
    ),
    published=tuple(packed_size("minigpt_v2_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={stage.name: training_check for stage in SYSTEM.recipe},
    headline=headline,
)
