"""The return value of every model, `model(**batch) -> Output`; fields that a model does not have are None.

A NamedTuple, because torch's tools (FSDP, DDP, compile) find the tensors inside tuples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Output(NamedTuple):
    """logits: [B, T, V] of a language model, [N, classes] of a classifier, [images, texts] of a dual encoder.

    hidden: last hidden states [B, T, D], after the final norm.  features: by modality, the inputs of the backbone,
    [N, S, D] or a list of [s_i, D].  embeddings: by modality, vectors in the joint space [N, E], not normalised.
    predictions: by name, outputs of regression heads and pretraining heads.
    hidden_states, attentions: of every layer, where the caller asks for them (`models/recording.py`).
    loss: the sum of `losses` (weighted scalars by name), if the batch has labels or targets.
    """

    logits: Tensor | None = None
    hidden: Tensor | None = None
    features: Mapping[str, Any] | None = None
    embeddings: Mapping[str, Tensor] | None = None
    predictions: Mapping[str, Tensor] | None = None
    loss: Tensor | None = None
    losses: Mapping[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def total_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of scalar losses."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()
