"""mPLUG-Owl2 against the official code, run outside the project."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check.demo import chat_headline
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.mplug_owl2 import SYSTEM
from polymodal.systems.mplug_owl2.checkpoint import IMAGE

KEYS = "MPLUGOwl2LlamaForCausalLM of the official code on the meta device"


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own pictures."""
    _, tensors = read(fixture)
    mask, found = tensors["in.attention_mask"].bool(), []
    for row, pictures in ((0, slice(0, 2)), (1, slice(2, 3))):
        ids = tensors["in.input_ids"][row][mask[row]][None]
        found.append((row, {"input_ids": ids, "images": tensors["in.images"][pictures]}))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 8 queries and an end marker a picture of 56 x 56."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 56, "patch_size": 14}  # fmt: skip
    abstractor = {"num_learnable_queries": 8, "hidden_size": 48, "encoder_hidden_size": 48, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "intermediate_size": 64, "grid_size": 4}  # fmt: skip
    return {"model_type": "mplug_owl2", "architectures": ["MPLUGOwl2LlamaForCausalLM"], "vocab_size": vocabulary,
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "visual_config": {"visual_model": vision, "visual_abstractor": abstractor}}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; both stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    pixels = caption_check(model, [1, *[IMAGE] * 9, 2], side=56)

    def batches(step: int) -> dict[str, Any]:
        batch = dict(pixels.batches(step))
        images = batch.pop("pixel_values")
        return {**batch, "images": images}

    return TrainingCheck(model=model, batches=batches)


def headline() -> HeadlineResult:
    """A tiny mPLUG-Owl2 is trained on eight real pictures and asked about each by `chat`, from its published folder."""
    return chat_headline(SYSTEM.formats[0], small, steps=100, generation_config={"eos_token_id": 2},
                         wanting="published weights are fetched from the hub by id and were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("mplug_owl2"),
    cases=(
        case("two pictures and one", "mplug_owl2"),
        case("biases, other activations, no last norm of the encoder", "mplug_owl2_biased"),
        case("no class token, resized positions, stretched rope", "mplug_owl2_no_class"),
    ),
    published=(fixture_size("mplug_owl2", "llama2-7b", 8_197_859_328, KEYS),),
    training_checks={"align": training_check, "instruct": training_check},
    headline=headline,
    exceptions=(
        "grouped key heads have no oracle: the official routing of k and v needs as many key heads as heads",
        "rope_scaling dynamic: the official code keeps the table of the longest row it ever saw, so a shorter row "
        "after it differs; here the rows of a batch decide",
    ),
)
