"""Qwen-VL against its published code, run outside the project."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.qwen_vl import SYSTEM
from polymodal.systems.qwen_vl.boxes import box_text, read_boxes

CHAT = packed_size("qwen_vl_sizes", "chat", 9_656_935_168)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>", "<ref>", "</ref>", "<box>",
            "</box>"]  # fmt: skip
IMG = SPECIALS.index("<img>")


def case(name: str, fixture: str, *pictures: int) -> Case:
    """pictures: how many each row of the fixture has; the first row is generated from."""
    _, tensors = read(fixture)
    pixels = randomise.values("pixel_values", _made(fixture))
    rows: list[tuple[int, Tensors]] = []
    first = 0
    for row, count in enumerate(pictures):
        ids = unpadded(tensors, row)
        alone: Tensors = {"input_ids": ids}
        if count:
            alone["pixel_values"] = pixels[first : first + count]
        rows.append((row, alone))
        first += count
    return fixture_case(name, fixture, alone=rows, prompt=rows[0][1])


def _made(fixture: str) -> list[int]:
    shape: list[int] = json.loads(read(fixture)[0]["made"])["pixel_values"]
    return shape


def small(vocabulary: int, start: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 16 patches and 4 tokens a picture of 56 x 56."""
    visual = {"width": 32, "heads": 2, "layers": 2, "mlp_ratio": 2.0, "output_dim": 128, "patch_size": 14,
              "image_size": 56, "n_queries": 4, "image_start_id": start}  # fmt: skip
    return {"model_type": "qwen", "architectures": ["QWenLMHeadModel"], "vocab_size": vocabulary, "hidden_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 32, "intermediate_size": 256,
            "seq_length": 2048, "visual": visual}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(36, 31)).build()
    return caption_check(model, [1, 31, *[33] * 4, 32], side=56)


def headline() -> HeadlineResult:
    """A tiny Qwen-VL is trained on eight real pictures and asked about each by `chat`; boxes go both ways."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, SPECIALS, eos="<|endoftext|>", pad="<|endoftext|>")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], small(size, IMG), steps=200,
                                     generation_config={"chat_format": "chatml", "eos_token_id": 0})  # fmt: skip
    boxes = ((0.0, 12 / 999, 0.25, 1.0), (1 / 999, 0.0, 1.0, 3 / 999))
    text, found = read_boxes(f"see {box_text(boxes, 'a dog')} run")
    read_back = all(
        abs(a - b) <= 0.5 / 999
        for ours, box in zip(found[0].boxes, boxes, strict=True)
        for a, b in zip(ours, box, strict=True)
    )
    return HeadlineResult(
        ok=right == 8 and read_back and text == "see a dog run",
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them, boxes are written and read back "
        "(published weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("qwen_vl"),
    cases=(
        case("two pictures, one, none", "qwen_vl", 2, 1, 0),
        case("six times the trained length, half of each head rotated, odd widths", "qwen_vl_long", 2, 1),
    ),
    published=(CHAT, replace(CHAT, variant="base")),
    training_checks={"see": training_check, "tasks": training_check, "chat": training_check},
    headline=headline,
    exceptions=(
        "in a batch with rows longer than 2048 tokens published code lets the padding count; here a row is as alone",
        "the rotary theta grows at 2048 and 4096 tokens: keys that a conversation keeps have the theta of their time, "
        "published code computes each prompt anew",
    ),
)
