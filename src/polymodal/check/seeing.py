"""Training checks and demonstrations of encoders: classes, pairs of picture and text (or of picture and another sense).

Real pictures (check/real.py); a class is one picture's name, a sentence its letters between a begin and an end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import real
from polymodal.check.record import HeadlineResult, TrainingCheck
from polymodal.check.training import letters, rows, table

COUNT = 8
Made = Callable[[list[int]], Tensor]  # which samples -> their tensor


def classes_check(model: nn.Module, side: int, count: int = COUNT, **changes: Any) -> TrainingCheck:
    """Each picture is a class of its own."""
    pixels = real.pixels(side, count=count)

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, count, count)
        return {"pixel_values": pixels[chosen], "labels": torch.tensor(chosen)}

    return TrainingCheck(model=model, batches=batches, **changes)


def pairs_check(
    model: nn.Module, first: tuple[str, Made], second: tuple[str, Made], count: int = COUNT, **changes: Any
) -> TrainingCheck:
    """Pairs of two modalities: (tensor name, rows -> tensor) of either side."""

    def batches(step: int) -> dict[str, Tensor]:
        chosen = rows(step, count, count)
        return {name: made(chosen) for name, made in (first, second)}

    return TrainingCheck(model=model, batches=batches, **changes)


def sentences(begin: int, end: int, first: int) -> Made:
    """Rows -> ids [B, T]: begin, the letters of the name, end; padded with the end."""
    names = real.captions()
    return lambda chosen: table([[begin, *letters(names[i], first), end] for i in chosen], end)


def told_apart(classify: Callable[[Any, Sequence[str]], Any], count: int = COUNT) -> HeadlineResult:
    """How many real pictures get their own name among all names, through `Model.classify`; needs 7 of 8."""
    import polymodal as pm

    samples = real.pictures()[:count]
    names = [name for _, name in samples]
    right = sum(classify(pm.image(picture), names)[0].label == name for picture, name in samples)
    return HeadlineResult(
        ok=right >= count - 1, evidence=f"{right} of {count} real pictures got their own name of {count}"
    )
