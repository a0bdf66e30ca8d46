"""Training at tiny size on real data: what the training checks of evidence files are made of, and how one is run.

    picture -> pixels;  its name -> letters as ids  ->  batch with labels  ->  the stage's objective  ->  it must fall

Letters, because a tiny vocabulary has no tokenizer: a to z and the space become 27 ids from `first` on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import real
from polymodal.check.record import TrainingCheck
from polymodal.train.loop import run_stage
from polymodal.train.objectives import Objective
from polymodal.train.optimizer import AdamW
from polymodal.train.recipe import Budget, Stage
from polymodal.train.schedule import Constant, Cosine, Schedule

ROUNDS = 4
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def letters(text: str, first: int = 3) -> list[int]:
    """Ids of the letters and spaces of a text, `first` for "a"; other signs are left out."""
    return [first + LETTERS.index(sign) for sign in text.lower() if sign in LETTERS]


def rows(step: int, batch: int, count: int = real.COUNT) -> list[int]:
    """Which samples the batch of a step holds: all of them in turn."""
    return [(step * batch + i) % count for i in range(batch)]


def table(sequences: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Lists of ids of unequal length -> int64 [B, T], padded on the right."""
    length = max(map(len, sequences))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in sequences])


def caption_batch(texts: Sequence[str], prompt: Sequence[int], first: int = 3, pad: int = 0) -> dict[str, Tensor]:
    """prompt (placeholders and all) + letters of each text -> input_ids, attention_mask, labels of the letters."""
    answers = [letters(text, first) for text in texts]
    return {
        "input_ids": table([[*prompt, *answer] for answer in answers], pad),
        "attention_mask": table([[1] * (len(prompt) + len(answer)) for answer in answers], 0),
        "labels": table([[-100] * len(prompt) + answer for answer in answers], -100),
    }


def label_all_tokens(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with labels at every real token; at placeholders they stand for the ids of the pictures."""
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def caption_check(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    side: int,
    first: int = 3,
    batch: int = 8,
    more: Callable[[list[int]], dict[str, Any]] | None = None,
    **changes: Any,
) -> TrainingCheck:
    """A MultimodalLM that takes `pixel_values [N, 3, side, side]` learns to name the pictures.

    more(rows) -> further tensors of the batch, or others in place of `pixel_values` (None takes one out).
    """
    pixels, names = real.pixels(side), real.captions()

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, batch)
        made = {**caption_batch([names[i] for i in chosen], prompt, first), "pixel_values": pixels[chosen]}
        made |= more(chosen) if more is not None else {}
        return {name: value for name, value in made.items() if value is not None}

    return TrainingCheck(model=model, batches=batches, **changes)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Mean loss of the first and of the last fifth of the steps, and the share of parameters that trained."""

    stage: str
    first: float
    last: float
    share: float

    @property
    def ok(self) -> bool:
        return self.last < self.first


def train_stage(stage: Stage, training_check: TrainingCheck) -> TrainingResult:
    """Run one stage of a recipe at tiny size with the project's own loop: its objective, its trainable parts and rates
    by part, few steps."""
    small = replace(
        stage,
        optimizer=replace(stage.optimizer, lr=training_check.lr),
        schedule=Cosine(final=0.5),
        budget=Budget(batch=1, steps=training_check.steps),
    )
    losses = run(training_check, small)
    trained = sum(p.numel() for p in training_check.model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in training_check.model.parameters())
    few = max(1, len(losses) // 5)
    return TrainingResult(
        stage=stage.name, first=sum(losses[:few]) / few, last=sum(losses[-few:]) / few, share=trained / whole
    )


def learned(
    training_check: TrainingCheck,
    objective: Objective,
    *,
    steps: int | None = None,
    train: tuple[str, ...] = ("*",),
    frozen: tuple[str, ...] = (),
    schedule: Schedule | None = None,
    until: float | None = None,
) -> nn.Module:
    """The check's model after some steps of the project's own loop in which all of its parameters, or those below
    `train` and not below `frozen`, learn an objective: ready to be used.  until: the last loss; while it is higher,
    the same steps come again, `ROUNDS` times at most."""
    stage = Stage(
        name="learned",
        data=(),
        objective=objective,
        train=train,
        frozen=frozen,
        optimizer=AdamW(lr=training_check.lr, weight_decay=0.01),
        schedule=schedule or Constant(),
        budget=Budget(batch=1, steps=training_check.steps if steps is None else steps),
    )
    for _ in range(ROUNDS):
        last = run(training_check, stage)[-1]
        if until is None or last <= until:
            break
    return training_check.model.requires_grad_(True)


def run(training_check: TrainingCheck, stage: Stage) -> list[float]:
    """The losses of a stage on the check's batches, by the one loop; its folder is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return run_stage(
            training_check.model,
            stage,
            lambda step, generator: training_check.batches(step),
            Path(folder),
            save_every=10**9,
        )
