"""MTFN, TFN and LMF against MMSA's classes, run outside the project (check/fixtures/mtfn*.safetensors)."""

from __future__ import annotations

import torch

from polymodal.check import real
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import batches_of, loaded, sequences
from polymodal.check.training import LETTERS, learned
from polymodal.systems.mtfn import SYSTEM

NAMES = ("score", "text", "audio", "vision")
SMALL = {
    "model_type": "mtfn",
    "features": {"text": len(LETTERS), "audio": 4, "vision": 12},
    "hidden": {"text": 16, "audio": 8, "vision": 16},
    "text_out": 8,
    "heads": {"fusion": 16, "text": 16, "audio": 8, "vision": 16},
    "seq_lens": {"text": 12, "audio": 20, "vision": 16},
}


def samples() -> Tensors:
    """Four labels: how warm a picture is (all, vision), how long its name (text), how bright it is (audio)."""
    made = sequences(real.COUNT)
    score = made.pop("score")
    length = made["text"].sum((1, 2))
    bright = made["audio"].mean((1, 2))
    own = [(x - x.mean()) / x.std() for x in (length, bright)]
    return {**made, "labels": torch.stack((score / 3, own[0].clamp(-1, 1), own[1].clamp(-1, 1), score / 3), 1)}


def training_check(steps: int = 40) -> TrainingCheck:
    """Absolute error of the four scores."""
    torch.manual_seed(0)
    model, batches = SYSTEM.formats[0].model_spec(SMALL).build(), batches_of(samples(), 24)

    def without_index(step: int) -> Tensors:
        return {name: value for name, value in batches(step).items() if name != "index"}

    return TrainingCheck(model=model, batches=without_index, steps=steps, lr=5e-3)


def headline() -> HeadlineResult:
    """All four scores of real samples from a loaded folder, each against its own label."""
    model = learned(training_check(160), SYSTEM.recipe[0].objective)
    data = samples()
    labels = data.pop("labels")
    found = loaded(SYSTEM.formats[0].model_spec(SMALL), model, SMALL).predict(**data)
    errors = {name: float((found[name] - labels[:, i]).abs().mean()) for i, name in enumerate(NAMES)}
    guess = [float((x - x.median()).abs().mean()) for x in labels.T]
    pairs = zip(errors.items(), guess, strict=True)
    said = ", ".join(f"{name} {error:.2f} ({plain:.2f})" for (name, error), plain in pairs)
    return HeadlineResult(
        ok=errors["score"] < 0.6 * guess[0] and errors["text"] < 0.6 * guess[1] and errors["vision"] < 0.6 * guess[3],
        evidence="tiny weights trained on 96 real pictures and names with four labels each: errors, beside those of a "
        f"constant guess: {said}; audio has the published weight 0",
    )


SIZES = (
    ("mtfn-sims", 140_957_190),
    ("tfn-mosi", 9_497_045),
    ("tfn-mosei", 5_042_541),
    ("tfn-sims", 35_632_079),
    ("lmf-mosi", 505_071),
    ("lmf-mosei", 508_475),
    ("lmf-sims", 272_381),
)
EVIDENCE = Evidence(
    oracle=fixture_source("mtfn"),
    cases=(
        fixture_case("MTFN, sequences of unequal length padded as MMSA pads them", "mtfn"),
        fixture_case("TFN, a state dict of MMSA without a config, means given", "mtfn_tfn"),
        fixture_case("LMF, rank 3", "mtfn_lmf"),
    ),
    published=tuple(packed_size("mtfn_sizes", name, parameters) for name, parameters in SIZES),
    training_checks={"train": training_check},
    headline=headline,
    exceptions=("the weight decay of audio and vision, smaller than the text's, is said in the stage's note alone",),
)
