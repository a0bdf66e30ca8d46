"""Training checks and headlines of encoders: classification, and contrast of two modalities.

On real pictures (check/real.py); each picture is a class, and its caption the letters of its name between two tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import real
from polymodal.check.demo import Checkpoint
from polymodal.check.record import HeadlineResult, TrainingCheck
from polymodal.check.training import learned, letters, rows, table
from polymodal.systems import Classification

COUNT = 8
BARE = "an encoder by itself gives states and answers nothing; its states are compared in a case"
"""Why a layout that holds a bare encoder has no headline."""
TensorOfRows = Callable[[list[int]], Tensor]  # sample indices -> their tensor


def classification_check(model: nn.Module, side: int, count: int = COUNT, **changes: Any) -> TrainingCheck:
    """A classifier learns one class for each picture."""
    pixels = real.pixels(side, count=count)

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, count, count)
        return {"pixel_values": pixels[chosen], "labels": torch.tensor(chosen)}

    return TrainingCheck(model=model, batches=batches, **changes)


def contrastive_check(
    model: nn.Module,
    first: tuple[str, TensorOfRows],
    second: tuple[str, TensorOfRows],
    count: int = COUNT,
    **changes: Any,
) -> TrainingCheck:
    """A dual encoder learns pairs of two modalities: (tensor name, indices -> tensor) of either."""

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, count, count)
        return {name: made(chosen) for name, made in (first, second)}

    return TrainingCheck(model=model, batches=batches, **changes)


def name_ids(begin: int, end: int, first: int) -> TensorOfRows:
    """Sample indices -> ids [B, T]: begin, the letters of the name, end; padded with the end."""
    names = real.captions()
    return lambda chosen: table([[begin, *letters(names[i], first), end] for i in chosen], end)


def classes_headline(checkpoint: Checkpoint, side: int) -> HeadlineResult:
    """A tiny classifier in a layout that names no classes, trained, written and loaded: of how many real pictures the
    largest of its logits is their own class; needs 7 of 8."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = checkpoint.stored(
            Path(directory), lambda module: learned(classification_check(module, side), Classification(), steps=60)
        )
    right = int((model.logits(pixel_values=real.pixels(side, count=COUNT)).argmax(1) == torch.arange(COUNT)).sum())
    return HeadlineResult(ok=right >= COUNT - 1, evidence=f"{right} of {COUNT} real pictures got their own class")


def classification_headline(classify: Callable[[Any, Sequence[str]], Any], count: int = COUNT) -> HeadlineResult:
    """How many real pictures get their own name among all names, through `Model.classify`; needs 7 of 8."""
    import polymodal as pm

    samples = real.pictures()[:count]
    names = [name for _, name in samples]
    right = sum(classify(pm.image(picture), names)[0].label == name for picture, name in samples)
    return HeadlineResult(
        ok=right >= count - 1, evidence=f"{right} of {count} real pictures got their own name of {count}"
    )
