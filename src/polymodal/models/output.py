"""What every model returns: `model(**batch) -> Output`, with named fields; None where the shape of model has no such.

A NamedTuple, so that torch's own tools (fully sharded data parallel, DDP, compile) look through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Output(NamedTuple):
    """logits: [B, T, V] of a language model, [N, classes] of a classifier, [images, texts] of a dual encoder.

    hidden: last hidden states [B, T, D], after the final norm.  features: by modality, what enters the backbone,
    [N, S, D] or a list of [s_i, D].  embeddings: by modality, vectors of the joint space [N, E], not of unit length.
    predictions: by name, what regression heads and heads of pretraining give.
    loss: the sum of `losses` (scalars by name, each with its weight in it), when labels or targets are in the batch.
    """

    logits: Tensor | None = None
    hidden: Tensor | None = None
    features: Mapping[str, Any] | None = None
    embeddings: Mapping[str, Tensor] | None = None
    predictions: Mapping[str, Tensor] | None = None
    loss: Tensor | None = None
    losses: Mapping[str, Tensor] | None = None


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of losses by name, each a scalar."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()
