"""Probabilities among the classes a model was trained on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media import Image
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.batches import stacked


def scorer(
    model: Any, transform: Callable[[Any], Tensor], known: Sequence[str]
) -> Callable[[Sequence[Any], Sequence[str]], Tensor]:
    """A function (pictures, labels) -> probabilities [N, labels], rows that sum to 1 over those asked for.

    known: the model's own labels in the order of its logits; another label raises ConfigError, other media
    PromptError.
    """
    # Two classes may have one name (ImageNet's cranes): the label's probability is that of both.
    columns: dict[str, list[int]] = {}
    for index, label in enumerate(known):
        columns.setdefault(label, []).append(index)

    def score(items: Sequence[Any], labels: Sequence[str]) -> Tensor:
        if wrong := [type(item).__name__.lower() for item in items if not isinstance(item, Image)]:
            raise PromptError(f"classify: this model classifies pictures; found {wrong[0]}")
        if missing := [label for label in labels if label not in columns]:
            near = difflib.get_close_matches(missing[0], known, n=3, cutoff=0.5) or known[:3]
            raise ConfigError(
                f"this classifier knows {len(known)} labels and {missing[0][:60]!r} is not one of them; it knows "
                f"{', '.join(map(repr, near))}"
            )
        logits = model(pixel_values=stacked(map(transform, items), model)).logits.float()
        return torch.stack([logits[:, columns[label]].logsumexp(-1) for label in labels], -1).softmax(-1)

    return score
