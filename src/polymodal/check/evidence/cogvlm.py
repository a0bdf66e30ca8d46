"""CogVLM against the official remote code, run outside the project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from polymodal.check.demo import chat_headline
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Shapes, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.cogvlm import SYSTEM

KEYS = "CogVLMForCausalLM of the official code on the meta device"


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own pictures."""
    _, tensors = read(fixture)
    mask, found = tensors["in.attention_mask"].bool(), []
    for row, pictures in ((0, slice(0, 2)), (1, slice(2, 3)), (2, None)):
        given = {name: tensors[f"in.{name}"][row][mask[row]][None] for name in ("input_ids", "token_type_ids")}
        if pictures is not None:
            given["images"] = tensors["in.images"][pictures]
        found.append((row, given))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


def sizes() -> tuple[Size, ...]:
    """The names of all variants; that of 224 pixels differs by its table of positions."""

    def smaller() -> Shapes:
        return {**whole.shapes(), "model.vision.patch_embedding.position_embedding.weight": (257, 1792)}

    whole = fixture_size("cogvlm", "chat", 17_639_685_376, KEYS)
    same = [fixture_size("cogvlm", name, 17_639_685_376, KEYS) for name in ("base-490", "grounding-generalist")]
    small = Size(variant="base-224", shapes=smaller, source=f"{KEYS}, positions cut to 224 pixels",
                 parameters=lambda: 17_639_685_376 - (1226 - 257) * 1792)  # fmt: skip
    return (whole, *same, small)


def small(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 16 patches and two markers a picture of 56 x 56."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_heads": 4, "image_size": 56,
              "patch_size": 14, "num_positions": 17, "in_channels": 3}  # fmt: skip
    return {"model_type": "cogvlm", "architectures": ["CogVLMForCausalLM"], "vocab_size": vocabulary,
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vision_config": vision}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    return expert_check(SYSTEM.formats[0].model_spec(small(40)).build())


def expert_check(model: Any, more: Callable[[list[int]], dict[str, Any]] | None = None) -> TrainingCheck:
    """The same of any model with CogVLM's visual expert; more: what the model reads beside the small picture."""
    kinds = [0] + [1] * 18 + [0]
    check = caption_check(model, [1, *[0] * 18, 2], side=56, more=more)

    def batches(step: int) -> dict[str, Any]:
        batch = dict(check.batches(step))
        images = batch.pop("pixel_values")
        types = torch.zeros_like(batch["input_ids"])
        types[:, : len(kinds)] = torch.tensor(kinds)
        return {**batch, "images": images, "token_type_ids": types}

    return TrainingCheck(model=model, batches=batches)


def headline() -> HeadlineResult:
    """A tiny CogVLM is trained on eight real pictures and asked about each by `chat`, from its published folder."""
    return chat_headline(SYSTEM.formats[0], small, steps=100, generation_config={"eos_token_id": 2},
                         wanting="published weights are fetched from the hub by id and were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("cogvlm"),
    cases=(
        case("two pictures, one, none", "cogvlm"),
        case("one layer, odd widths, other activations", "cogvlm_small"),
    ),
    published=sizes(),
    training_checks={"caption": training_check, "ground": training_check, "instruct": training_check},
    headline=headline,
    exceptions=(
        "the oracle is put together from official files: CogVLM2's CogVLMForCausalLM with the VisionExpertAttention "
        "and EVA2CLIPModel of CogAgent, which are CogVLM-17B's",
    ),
)
