"""Scores from one vector a modality and from their fusion: the heads of MMSA's multitask models (Self-MM, MTFN).

vector [B, D] -> dropout -> linear, ReLU -> vector' [B, W] -> linear, ReLU -> linear -> score [B, 1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, Row, rename

SCORES = {"fusion": "score", "text": "text", "audio": "audio", "vision": "vision"}
"""What a head's prediction is called."""
SHORT = {"fusion": "M", "text": "T", "audio": "A", "vision": "V"}
"""MMSA's names of the same."""
OFFICIAL = {"fusion": "fusion", "text": "text", "audio": "audio", "vision": "video"}


class ScoreHead(nn.Module):
    """See the module docstring."""

    def __init__(self, in_width: int, width: int, outputs: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(in_width, width)
        self.linear2 = nn.Linear(width, width)
        self.linear3 = nn.Linear(width, outputs)

    def vector(self, x: Tensor) -> Tensor:
        """`[B, D] -> [B, W]`: what unimodal labels are made from."""
        return F.relu(self.linear1(self.dropout(x)))

    def score(self, vector: Tensor) -> Tensor:
        """`[B, W] -> [B, outputs]`"""
        return self.linear3(F.relu(self.linear2(vector)))

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.vector(x))


def head_keys(names: Sequence[str]) -> KeyTable:
    """MMSA's names of these heads -> ours, below `heads`."""
    rows: list[Row] = []
    for name in names:
        for layer in "123":
            source, target = f"post_{OFFICIAL[name]}_layer_{layer}", f"heads.{name}.linear{layer}"
            rows += [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]
    return KeyTable(tuple(rows))


def require_names(what: str, given: Mapping[str, object], names: Sequence[str]) -> None:
    """Raises ConfigError for a table of a config that has other keys."""
    if set(given) != set(names):
        raise ConfigError(f"{what} must have the keys {', '.join(names)}; found {', '.join(given) or 'none'}")
