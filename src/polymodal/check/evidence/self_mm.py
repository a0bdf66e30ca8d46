"""Self-MM against MMSA's class, run outside the project (check/fixtures/self_mm*.safetensors)."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import real
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import batches_of, ids_of, loaded, sequences
from polymodal.check.training import learned
from polymodal.systems.self_mm import SYSTEM, published

BERT = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 16}  # fmt: skip
SMALL = published(4, 12, text_config=BERT, heads={"fusion": 32, "text": 16, "audio": 8, "vision": 16})
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "audio", "vision", "audio_lengths", "vision_lengths")


def case(name: str, fixture: str) -> Case:
    """A fixture, whose rows are also given alone, without their padding."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    alone = [(row, alone_row(given, row)) for row in range(len(given["audio"]))]
    return fixture_case(name, fixture, alone=alone)


def alone_row(given: Tensors, row: int) -> Tensors:
    """One row cut to its lengths."""
    real_tokens = int(given["attention_mask"][row].sum())
    own = {name: given[name][row : row + 1, :real_tokens] for name in INPUTS[:3]}
    for name in ("audio", "vision"):
        lengths = given.get(f"{name}_lengths")
        own[name] = given[name][row : row + 1, : real_tokens if lengths is None else int(lengths[row])]
    return own


def samples(count: int = real.COUNT) -> Tensors:
    """Names as ids, and the real sequences of the other two."""
    made = sequences(count)
    score = made.pop("score")
    made.pop("text")
    return {**ids_of(count), **made, "labels": score}


def training_check(steps: int = 40) -> TrainingCheck:
    """Several epochs of 96 samples, so that labels of single modalities are made."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    return TrainingCheck(model=model, batches=batches_of(samples(), 24), steps=steps, lr=2e-3)


def headline() -> HeadlineResult:
    """All four scores of real samples from a loaded folder."""
    made = training_check(160)
    model = learned(made, SYSTEM.recipe[0].objective)
    data = samples()
    score = data.pop("labels")
    found: dict[str, Any] = loaded(SYSTEM.formats[0].model_spec(SMALL), model, SMALL).predict(**data)
    errors = {name: float((each - score).abs().mean()) for name, each in found.items()}
    plain = float((score - score.median()).abs().mean())
    said = ", ".join(f"{name} {error:.2f}" for name, error in errors.items())
    return HeadlineResult(
        ok=errors["score"] < 0.6 * plain and errors["vision"] < 0.9 * plain,
        evidence=f"tiny weights trained on 96 real pictures and names, labels of single modalities made by themselves: "
        f"errors of a score in -3 .. 3: {said} (constant guess {plain:.2f})",
    )


SIZES = (("mosi", 109_641_572), ("mosei", 109_647_908), ("sims", 102_649_028))
EVIDENCE = Evidence(
    oracle=fixture_source("self_mm"),
    cases=(
        case("sequences of unequal length, segments", "self_mm"),
        case("a state dict of MMSA without a config, BERT heads of 64", "self_mm_inferred"),
        case("aligned data, lengths of the text", "self_mm_aligned"),
    ),
    published=tuple(packed_size("self_mm_sizes", name, parameters) for name, parameters in SIZES),
    training_checks={"train": training_check},
    headline=headline,
    exceptions=(
        "BERT's own dropout of 0.1 is not applied while it trains",
        "how many heads BERT has is read from no file: a head of 64 numbers is taken, as both published BERTs have",
    ),
)
