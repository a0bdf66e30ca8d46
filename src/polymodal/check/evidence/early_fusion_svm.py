"""MUStARD's baseline against scikit-learn's pipeline, run elsewhere: its arrays give its decisions."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import polymodal as pm
from polymodal.check import real
from polymodal.check.fixture import fixture_source, read, store
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import sequences
from polymodal.systems.early_fusion_svm import SYSTEM
from polymodal.train.support_vectors import SupportVectors

SMALL = {"model_type": "early_fusion_svm", "features": {"text": 27, "vision": 12, "audio": 4}, "vectors": real.COUNT}


def case(name: str, fixture: str) -> Case:
    """The arrays that scikit-learn fitted, and its decisions about other samples."""

    def make(folder: Path) -> Expected:
        about, tensors = read(fixture)
        (folder / "config.json").write_text(about["config"], encoding="utf-8")
        weights = {key[12:]: value for key, value in tensors.items() if key.startswith("out.weights.")}
        store(weights, folder / about["file"], "")
        return Expected(
            inputs={key[3:]: value for key, value in tensors.items() if key.startswith("in.")},
            logits=tensors["out.logits"],
            predictions={"decision": tensors["out.predictions.decision"]},
        )

    return Case(name=name, make=make)


def samples() -> Tensors:
    """Letters, tiles and columns of real pictures; class 1: warm ones."""
    made = sequences(real.COUNT)
    score = made.pop("score")
    return {**made, "labels": (score > 0).long()}


def training_check() -> TrainingCheck:
    """The duality gap before the first step is 1, before the others 0."""
    data, model = samples(), SYSTEM.formats[0].model_spec(SMALL).build()
    return TrainingCheck(model=model, batches=lambda step: data, steps=5, lr=1e-9)


def headline() -> HeadlineResult:
    """Trained on two thirds of the pictures, saved as a folder, asked about the rest."""
    data, first = samples(), 64
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    SupportVectors(cost=10.0).build(model)(model, {name: value[:first] for name, value in data.items()})
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
        names = SYSTEM.formats[0].model_spec(SMALL).keys[0].inverse()
        store(dict(names.apply(model.state_dict())), folder / "model.safetensors", "")
        loaded = pm.load(folder)
    rest = {name: value[first:] for name, value in data.items()}
    labels = rest.pop("labels")
    right = int((loaded.logits(**rest).argmax(1) == labels).sum())
    most = int(max(labels.sum(), (1 - labels).sum()))
    return HeadlineResult(
        ok=right > most + 2,
        evidence=f"a machine trained on 64 real pictures and names tells warm from cold in {right} of {len(labels)} "
        f"others (always one answer: {most}); MUStARD's features were not at hand",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("early_fusion_svm_scaled"),
    cases=(
        case("scaled, C 10, sequences of unequal length", "early_fusion_svm_scaled"),
        case("not scaled, C 30", "early_fusion_svm_plain"),
    ),
    training_checks={"speaker-dependent": training_check, "speaker-independent": training_check},
    headline=headline,
    exceptions=(
        "no machine was published, so there is no list of names: those on disk are the attributes of scikit-learn",
        "training is exact on the host for as many samples as have a kernel matrix in memory; nothing is sharded",
    ),
)
