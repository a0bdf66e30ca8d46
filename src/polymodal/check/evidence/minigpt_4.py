"""MiniGPT-4 against the official code."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check.demo import chat_headline
from polymodal.check.evidence import blip_2
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.minigpt_4 import SYSTEM


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """The fixture's rows without padding: the first has one picture, the second two."""
    _, tensors = read(fixture)
    rows = []
    for row, pictures in ((0, slice(0, 1)), (1, slice(1, 3))):
        ids = unpadded(tensors, row)
        rows.append((row, {"input_ids": ids, "pixel_values": tensors["in.pixel_values"][pictures]}))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 4 queries that read pictures of 56 x 56."""
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4}  # fmt: skip
    found = blip_2.small(text, vocabulary, vocabulary)
    return {**found, "model_type": "minigpt4", "num_query_token": found.pop("num_query_tokens")}


def training_check() -> TrainingCheck:
    """The linear alone learns to let a frozen, random language model name pictures: the loss falls a little."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [40] * 4 + [32], side=56, steps=100)


def headline() -> HeadlineResult:
    """A tiny MiniGPT-4 in the official layout is trained on eight real pictures and asked about each by `chat`."""
    return chat_headline(SYSTEM.formats[0], small, steps=300, preprocessor_config={"size": {"height": 56, "width": 56}},
                         wanting="in the published template; the published parts were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("minigpt_4"),
    cases=(
        case("Vicuna, Q-Former", "minigpt_4"),
        case("LLaMA-2, four neighbours, grouped heads, one layer", "minigpt_4_llama_2"),
    ),
    published=tuple(packed_size("minigpt_4_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": training_check, "align": training_check},
    headline=headline,
)
