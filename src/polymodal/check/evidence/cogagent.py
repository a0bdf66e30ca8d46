"""CogAgent against the official remote code, run outside the project."""

from __future__ import annotations

import json
from typing import Any

import torch

from polymodal.check import randomise, real
from polymodal.check.demo import chat_headline
from polymodal.check.evidence.cogvlm import expert_check
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.systems.cogagent import SYSTEM

KEYS = "CogAgentForCausalLM of the official code on the meta device"
PARAMETERS = 18_291_033_280


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding, with its own picture at both sizes."""
    about, tensors = read(fixture)
    pictures = {name: randomise.values(name, shape) for name, shape in json.loads(about["made"]).items()}
    mask, found = tensors["in.attention_mask"].bool(), []
    for row in range(len(mask)):
        given = {name: tensors[f"in.{name}"][row][mask[row]][None] for name in ("input_ids", "token_type_ids")}
        found.append((row, given | {name: value[row : row + 1] for name, value in pictures.items()}))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: a picture is 16 patches, two markers and 64 features."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_heads": 4, "image_size": 56,
              "patch_size": 14, "num_positions": 17, "in_channels": 3}  # fmt: skip
    large = {"layers": 2, "head_width": 8, "patch_size": 14, "final_embed_dim": 16}
    return {"model_type": "cogagent", "architectures": ["CogAgentForCausalLM"], "vocab_size": vocabulary,
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "cross_hidden_size": 32, "cross_compute_hidden_size": 32, "cross_image_size": 112,
            "cross_vision_config": large, "vision_config": vision}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures at both sizes and their names, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    large = real.pixels(112)
    return expert_check(SYSTEM.formats[0].model_spec(small(40)).build(), lambda rows: {"cross_images": large[rows]})


def headline() -> HeadlineResult:
    """A tiny CogAgent is trained on eight real pictures and asked about each by `chat`, from its published folder."""
    return chat_headline(SYSTEM.formats[0], small, steps=100, generation_config={"eos_token_id": 2},
                         wanting="published weights are fetched from the hub by id and were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("cogagent"),
    cases=(
        case("three pictures, words on both sides", "cogagent"),
        case("one layer, odd widths, another rotary grid", "cogagent_small"),
    ),
    published=tuple(fixture_size("cogagent", name, PARAMETERS, KEYS) for name in ("chat", "vqa")),
    training_checks={stage.name: training_check for stage in SYSTEM.recipe},
    headline=headline,
    exceptions=(
        "the official code is a mirror's, in which attention, RMS norm and cross mask were put back as the file before "
        "the mirror's changes has them",
    ),
)
