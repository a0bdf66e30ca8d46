"""Heads by which a language model finds pictures: both sides in one space, and whether to find or to draw (GILL).

    pooled picture [N, V] -> image -> [N, E]        states of a signal [k, n, D], the first -> text -> [k, E]
    logit_scale [1]: logarithm of the factor of cosines in training         the same state -> decision -> [k, 2]

Paper: arXiv 2305.17216.  Trap: the published linear runs over all states of a signal, and all but its first output are
dropped.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class JointHeads(nn.Module):
    """decides: whether there is a head that says "draw" (0) or "find" (1)."""

    def __init__(self, picture_width: int, text_width: int, joint_width: int, decides: bool) -> None:
        super().__init__()
        self.image = nn.Linear(picture_width, joint_width)
        self.text = nn.Linear(text_width, joint_width)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))
        self.decision = nn.Linear(text_width, 2) if decides else None

    def pictures(self, pooled: Tensor) -> Tensor:
        """[N, V] -> [N, E], rows of length 1."""
        return F.normalize(self.image(pooled), dim=-1)

    def texts(self, states: Tensor) -> Tensor:
        """States of signals [k, n, D] -> [k, E], rows of length 1."""
        return F.normalize(self.text(states[:, 0]), dim=-1)

    def predictions(self, states: Tensor) -> dict[str, Tensor]:
        """`retrieval` and, where there is one, `decision`."""
        found = {"retrieval": self.texts(states)}
        return found if self.decision is None else {**found, "decision": self.decision(states[:, 0])}

    def forward(self, pooled: Tensor) -> Tensor:
        """Same as `pictures`."""
        return self.pictures(pooled)
