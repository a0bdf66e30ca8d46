"""mPLUG-Owl against the official module, run elsewhere over the library's language models.

Two pictures and one, texts before, between and behind them, rows of unequal length, 16 greedy steps.  BLOOM's norm was
taken from the library's way of spliced embeddings by hand, as the official file does for its own release.
"""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check.demo import chat_headline
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.mplug_owl import SYSTEM
from polymodal.systems.mplug_owl.checkpoint import IMAGE

KEYS = "the official module on the meta device, with the abstractor's width of the released files"


def case(name: str, fixture: str) -> Case:
    """The stored case, and each of its rows without padding and with its own pictures."""
    _, tensors = read(fixture)
    mask, alone = tensors["in.attention_mask"].bool(), []
    for row, pictures in ((0, slice(0, 2)), (1, slice(2, 3))):
        ids = tensors["in.input_ids"][row][mask[row]][None]
        alone.append((row, {"input_ids": ids, "pixel_values": tensors["in.pixel_values"][pictures]}))
    return fixture_case(name, fixture, alone=tuple(alone))


def small(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 8 queries and an end vector a picture of 56 x 56."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 56, "patch_size": 14}  # fmt: skip
    connector = {"hidden_size": 48, "encoder_hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 64}  # fmt: skip
    text = {"model_type": "llama", "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
    return {"model_type": "mplug-owl", "architectures": ["MplugOwlForConditionalGeneration"], "num_query_tokens": 8,
            "vision_config": vision, "visual_abstractor_config": connector, "text_config": text}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; both stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [1, *[IMAGE] * 9, 2], side=56, lr=1e-2)


def headline() -> HeadlineResult:
    """A tiny mPLUG-Owl is trained on eight real pictures and asked about each by `chat`, from its published folder."""
    return chat_headline(SYSTEM.formats[0], small, steps=100, generation_config={"eos_token_id": 2},
                         wanting="published weights are fetched from the hub by id and were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("mplug_owl_llama"),
    cases=(
        case("LLaMA, two pictures and one", "mplug_owl_llama"),
        case("BLOOM with five heads, one layer of everything visual", "mplug_owl_bloom"),
    ),
    published=(
        fixture_size("mplug_owl_llama", "llama-7b", 7_123_068_928, KEYS),
        fixture_size("mplug_owl_llama", "llama-7b-pt", 7_123_068_928, KEYS),
        fixture_size("mplug_owl_bloom", "bloomz-7b-multilingual", 7_453_669_376, KEYS),
    ),
    training_checks={"pretrain": training_check, "instruct": training_check},
    headline=headline,
    exceptions=(
        "mplug-owl-llama-7b-video has layers over time and a second head of its own, which are not here; its folder "
        "is refused by the names of these tensors",
    ),
)
