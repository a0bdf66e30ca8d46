"""Losses: outputs and targets in, one number out.

lm_loss: next-token cross-entropy on labels (-100 = not learned), computed only at learned positions so that the
vocabulary-sized product is not spent on the prompt.
names_loss: cross-entropy of a picture against a table of names, with several right names a picture (their
probabilities are summed; "multiple instance" form, MIL-NCE, arXiv:1912.06430).
contrastive_loss: symmetric InfoNCE over the batch (CLIP, arXiv:2103.00020); equal captions count as one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def lm_loss(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    labels: Tensor,
    weight: Tensor | None = None,
    z_weight: float = 0.0,
) -> Tensor:
    """hidden [B, T, D], labels [B, T] aligned with the input ids; returns the mean over learned tokens.

    weight: of each id [V] (Emu3 counts picture ids by half).  z_weight: of log^2 of the softmax's sum (Chameleon).
    """
    predicts = labels[:, 1:] != -100
    logits = head(hidden[:, :-1][predicts]).float()
    loss = F.cross_entropy(logits, labels[:, 1:][predicts], weight)
    return loss + z_weight * logits.logsumexp(-1).square().mean() if z_weight else loss


def names_loss(logits: Tensor, right: Tensor) -> Tensor:
    """logits [B, V] of every name, right [B, V] bool with at least one true a row; mean of -log P(any right)."""
    total = torch.logsumexp(logits, dim=-1)
    hit = torch.logsumexp(logits.masked_fill(~right, float("-inf")), dim=-1)
    return (total - hit).mean()


def contrastive_loss(left: Tensor, right: Tensor, temperature: Tensor | float, groups: Tensor) -> Tensor:
    """left, right [B, D] unit vectors; groups [B] ints: rows of one group are positives of one another."""
    logits = left @ right.T / temperature
    same = groups[:, None] == groups[None]
    return 0.5 * (names_loss(logits, same) + names_loss(logits.T, same))
