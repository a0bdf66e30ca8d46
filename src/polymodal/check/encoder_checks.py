"""Training checks and headlines of encoders: classification, and contrast of two modalities.

On real pictures (check/real.py); each picture is a class, and its caption the letters of its name between two tokens.
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


def classification_headline(classify: Callable[[Any, Sequence[str]], Any], count: int = COUNT) -> HeadlineResult:
    """How many real pictures get their own name among all names, through `Model.classify`; needs 7 of 8."""
    import polymodal as pm

    samples = real.pictures()[:count]
    names = [name for _, name in samples]
    right = sum(classify(pm.image(picture), names)[0].label == name for picture, name in samples)
    return HeadlineResult(
        ok=right >= count - 1, evidence=f"{right} of {count} real pictures got their own name of {count}"
    )
