"""SEEChat against the official code, with the ChatGLM of its repository; asked about real pictures in two languages."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.evidence import blip_2, visualglm
from polymodal.check.fixture import fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.seechat import SYSTEM


def small(vocabulary: int, mask: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 4 queries that read pictures of 56 x 56."""
    found = blip_2.small({}, vocabulary, vocabulary)
    return {**found, "model_type": "see_chat", "num_query_token": found.pop("num_query_tokens"),
            "text_config": visualglm.glm(vocabulary, mask)}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures are named behind ChatGLM's two marks."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 32)).build()
    randomise.fill(
        model.get_submodule("backbone")
    )  # fresh weights are too small for a frozen model to answer to what is shown
    return caption_check(model, [40] * 4 + [32, 33], side=56, steps=80)


def headline() -> HeadlineResult:
    """A tiny SEEChat in the official layout is asked about four pictures, in Chinese and in English."""
    right, count = visualglm.asked_both_ways(SYSTEM, 0, small, "model.pth", visualglm.SPECIALS)
    return HeadlineResult(
        ok=right == count,
        evidence=f"tiny weights trained on 4 pictures, asked in Chinese and in English: chat names {right} of {count} "
        "(the published parts were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("seechat"),
    cases=(
        visualglm.case("text before and behind the picture", "seechat"),
        visualglm.case("one block, other widths, picture first", "seechat_one_block"),
    ),
    published=tuple(packed_size("seechat_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"align": training_check, "instruct": training_check},
    headline=headline,
)
