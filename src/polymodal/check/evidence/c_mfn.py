"""C-MFN against the authors' class, run outside the project (check/fixtures/c_mfn*.safetensors)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from polymodal.check import real
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import loaded, sequences
from polymodal.check.training import LETTERS, learned
from polymodal.systems.c_mfn import SYSTEM, by_modality

STEPS, SENTENCES = 8, 3
SMALL: dict[str, Any] = {
    "model_type": "c_mfn", "features": by_modality(len(LETTERS), 4, 12), "context": by_modality(8, 4, 16),
    "states": by_modality(8, 4, 16),
    "hidden": {"attention": 32, "proposal": 16, "keep": 16, "write": 16, "classifier": 16},
    "memory": 16, "sentences": SENTENCES, "steps": STEPS, "width": 32, "depth": 1, "heads": 2, "head_dim": 16,
    "ffn_width": 32,
}  # fmt: skip


def case(name: str, fixture: str) -> Case:
    """A fixture, whose samples are also given alone, cut to their longest sentence and without padded ones."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    return fixture_case(name, fixture, alone=[(row, row_alone(given, row)) for row in range(len(given["text"]))])


def row_alone(given: Tensors, row: int) -> Tensors:
    """One sample without the padding in front of its sentences and words, which the model puts back."""
    own = {name: x[row : row + 1] for name, x in given.items()}
    words = int((own["text"] != 0).sum())
    said = (own["context_text"] != 0).sum(-1)[0]
    made = {name: x[:, -words:] for name, x in own.items() if not name.startswith("context")}
    if int(said.max()) == 0:
        return made
    count, most = int((said > 0).sum()), int(said.max())
    return made | {name: x[:, -count:, -most:] for name, x in own.items() if name.startswith("context")}


@cache
def sentences() -> Tensors:
    """Each picture as a sentence of 8 steps in three modalities, and its warmth."""
    made = sequences(real.COUNT)
    rows = {name: x[:, torch.linspace(0, x.shape[1] - 1, STEPS).long()] for name, x in made.items() if name != "score"}
    return {**rows, "score": made["score"]}


def samples(seed: int, count: int = 48) -> Tensors:
    """A picture behind one to three others; the label: is it warmer than the one before it?"""
    generator = torch.Generator().manual_seed(seed)
    known, whole = sentences(), {}
    shown = torch.randint(real.COUNT, (count, SENTENCES + 1), generator=generator)
    length = torch.randint(1, SENTENCES + 1, (count, 1), generator=generator)
    there = torch.arange(SENTENCES) >= SENTENCES - length
    for name in SMALL["features"]:
        whole[name] = known[name][shown[:, -1]]
        whole[f"context_{name}"] = known[name][shown[:, :-1]] * there[..., None, None]
    score = known["score"]
    return {**whole, "labels": (score[shown[:, -1]] > score[shown[:, -2]]).float()[:, None]}


def training_check(steps: int = 40) -> TrainingCheck:
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    return TrainingCheck(model=model, batches=samples, steps=steps, lr=5e-3)


def headline() -> HeadlineResult:
    """Samples that training had not, with their context and without it."""
    stage = SYSTEM.recipe[0]
    model = learned(training_check(300), stage.objective, train=stage.train)
    data = samples(-1, 256)
    labels = data.pop("labels") > 0
    whole = loaded(SYSTEM.formats[0].model_spec(SMALL), model, SMALL)
    right = float(((whole.logits(**data) > 0) == labels).float().mean())
    alone = {name: data[name] for name in SMALL["features"]}
    without = float(((whole.logits(**alone) > 0) == labels).float().mean())
    return HeadlineResult(
        ok=right > 0.8 and right > without + 0.08,
        evidence=f"tiny weights trained on rows of real pictures: {right:.0%} of others are told warmer or colder than "
        f"the picture before ({without:.0%} without that context); UR-FUNNY's features were not at hand",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("c_mfn"),
    cases=(
        case("words as ids, contexts of none to three sentences of unequal length", "c_mfn"),
        case("a state dict without a config, five sentences of 20 words", "c_mfn_inferred"),
    ),
    published=(
        packed_size("c_mfn_sizes", "ur-funny-v1", 19_744_945),
        packed_size("c_mfn_sizes", "ur-funny-v2", 19_858_609),
    ),
    training_checks={"train": training_check},
    headline=headline,
    exceptions=(
        "how many word vectors a checkpoint holds was not published: the published sizes are without that table",
        "the size of V2 is that of V1's best run with V2's 371 face features; no run on V2 was published",
        "the transformer's dropout of 0.1 is not applied while it trains",
    ),
)
