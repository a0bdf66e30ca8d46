"""SPHINX against the official code with the libraries it joins, run outside the project."""

from __future__ import annotations

import json
from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.demo import chat_headline
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.sphinx import SYSTEM

WEIGHTS = "consolidated.00-of-01.model.pth"


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own picture."""
    about, tensors = read(fixture)
    pictures = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"])
    rows = []
    for row in range(len(tensors["in.input_ids"])):
        given = {"input_ids": unpadded(tensors, row)}
        if row < len(pictures):
            given["pixel_values"] = pictures[row : row + 1]
        rows.append((row, given))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


def small(vocabulary: int, kind: str = "llama_ens5") -> dict[str, Any]:
    """A config for training checks and the demonstration: views of 28 pixels, 4 patches and 2 queries each."""
    vision = {
        "qformer": {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96,
                    "num_query_tokens": 2},
        "qformer_vision": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
                           "image_size": 28},
        "clip": {"width": 64, "depth": 2, "patch_size": 14, "image_size": 28},
        "convnext": {"image_size": 32, "depths": [1, 1, 2, 1], "widths": [16, 16, 32, 48]},
        "dinov2": {"width": 48, "depth": 2, "heads": 4, "image_size": 42, "patch_size": 14},
    }  # fmt: skip
    return {"llama_type": kind, "dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "norm_eps": 1e-5,
            "vocab_size": vocabulary, "vision_config": vision}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures in five views and their names, letter by letter; all stages train the same parts."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    randomise.fill(model.get_submodule("encoders"))  # layer scales of fresh encoders hide what is shown
    return caption_check(model, [1, *[40] * 45], side=56)


def headline() -> HeadlineResult:
    """A tiny SPHINX is trained on eight real pictures and asked about each by `chat`, from its published layout."""
    return chat_headline(SYSTEM.formats[0], small, steps=150, weights=WEIGHTS,
                         fresh=lambda module: randomise.fill(module.get_submodule("encoders")),
                         wanting="published weights were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("sphinx"),
    cases=(
        case("one view, two pictures, none", "sphinx"),
        case("five views, one layer, grouped heads, the exact GELU", "sphinx_quarters"),
        case("two encoders, one view, none", "sphinx_light"),
        case("two encoders, five views", "sphinx_light_quarters"),
    ),
    published=tuple(packed_size("sphinx_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={stage.name: training_check for stage in SYSTEM.recipe},
    headline=headline,
    exceptions=(
        "SPHINX-MoE, whose language model is Mixtral in a layout of its own, is not read, nor are llama_ens5p2 and "
        "llama_ens10, of which no weights were released",
        "CLIP has the quick GELU that OpenAI's weights were trained with; since November 2023 the published code "
        'builds the exact GELU where it reads a release: "quick_gelu": false in config.json gives that',
        "no released file was at hand: names and shapes are those that the official code builds, from the releases of "
        "its libraries named above, with TinyLlama's numbers for Tiny; a config.json names sizes of encoders in tests "
        "alone",
        "the rates, batches and steps of the first two stages are not known",
    ),
)
