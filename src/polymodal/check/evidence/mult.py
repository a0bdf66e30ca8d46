"""MulT against its official code and MMSA's copy, run outside the project (check/fixtures/mult_*.safetensors)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.sequences import sequences
from polymodal.check.training import LETTERS, learned, rows
from polymodal.systems.mult import SYSTEM, published

SMALL = published((len(LETTERS), 4, 12), depth=2)


def training_check(steps: int = 40) -> TrainingCheck:
    """Absolute error of the score."""
    torch.manual_seed(0)
    data = sequences(real.COUNT)

    def batches(step: int) -> Tensors:
        chosen = rows(step, 24)
        return {"labels" if name == "score" else name: value[chosen] for name, value in data.items()}

    model = SYSTEM.formats[0].model_spec(SMALL).build()
    return TrainingCheck(model=model, batches=batches, steps=steps, lr=2e-3)


def headline() -> HeadlineResult:
    """Three sequences of lengths 12, 20 and 16, no alignment between them: scores from a loaded folder."""
    made = training_check(120)
    model = learned(made, SYSTEM.recipe[0].objective)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
        names = SYSTEM.formats[0].model_spec(SMALL).keys[0].inverse()
        torch.save(dict(names.apply(model.state_dict())), folder / "pytorch_model.bin")
        loaded = pm.load(folder)
    data = sequences(real.COUNT)
    score = data.pop("score")
    error = float((loaded.logits(**data)[:, 0] - score).abs().mean())
    plain = float((score - score.median()).abs().mean())
    seen = f"error {error:.2f} of a score in -3 .. 3 (constant guess {plain:.2f})"
    return HeadlineResult(
        ok=error < 0.6 * plain,
        evidence=f"tiny weights trained on sequences of 12, 20 and 16 steps from 96 real pictures and names: {seen}",
    )


def case(name: str, fixture: str) -> Case:
    """A fixture, whose rows are also compared with themselves alone."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    rows = len(given["text"])
    return fixture_case(
        name, fixture, alone=[(i, {key: value[i : i + 1] for key, value in given.items()}) for i in range(rows)]
    )


def size(variant: str, fixture: str, source: str) -> Size:
    """The names of a published size, kept with a fixture, without the two kinds of stored buffers."""
    return fixture_size(fixture, variant, int(read(fixture)[0]["parameters"]), source)


EVIDENCE = Evidence(
    oracle=fixture_source("mult_aligned"),
    cases=(
        case("aligned, padded in front, two blocks", "mult_aligned"),
        case("unaligned, one width needs no convolution, emotions", "mult_unaligned"),
        case("MMSA's copy: wide kernels, no positions", "mult_mmsa"),
        case("MMSA's copy: width 30, six heads", "mult_mmsa_narrow"),
        case("one target, no mask, three heads", "mult_one_target"),
    ),
    published=(
        size("mosei", "mult_aligned", "official class on the meta device"),
        size("iemocap", "mult_unaligned", "official class on the meta device"),
        size("mmsa-mosi", "mult_mmsa", "MMSA's class on the meta device"),
        size("mmsa-mosei", "mult_mmsa_narrow", "MMSA's class on the meta device"),
    ),
    training_checks={"train": training_check},
    headline=headline,
)
