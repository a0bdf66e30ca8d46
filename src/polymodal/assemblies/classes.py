"""Probabilities among the classes a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from polymodal.errors import ConfigError


def scorer(
    model: Any, transform: Callable[[Any], Tensor], known: Sequence[str]
) -> Callable[[Any, Sequence[str]], Tensor]:
    """A function (picture, labels) -> probabilities [labels] that sum to 1 over those asked for.

    known: the model's own labels in the order of its logits; another label raises ConfigError.
    """
    places = {label: index for index, label in enumerate(known)}

    def score(item: Any, labels: Sequence[str]) -> Tensor:
        if missing := [label for label in labels if label not in places]:
            raise ConfigError(f"this classifier knows {len(known)} labels; {missing[0]!r} is not one of them")
        one = next(model.parameters())
        logits = model.logits(pixel_values=transform(item)[None].to(one.device, one.dtype))[0].float()
        return logits[[places[label] for label in labels]].softmax(0)

    return score
