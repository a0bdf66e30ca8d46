"""A sequence as one vector: an LSTM's state at the last real step, and a linear (MMSA's AuViSubNet and TextSubNet)."""

from __future__ import annotations

from torch import Tensor, nn

from polymodal.models.feature_inputs import last_step
from polymodal.nn.lstm import LSTM
from polymodal.weights.keytable import KeyTable, rename


class LastState(nn.Module):
    """`[B, T, F] -> [B, D]`"""

    def __init__(self, in_width: int, width: int, out_width: int) -> None:
        super().__init__()
        self.lstm = LSTM(in_width, width, 1)
        self.proj = nn.Linear(width, out_width)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.proj(last_step(self.lstm(x), lengths))


def _keys() -> KeyTable:
    names = [f"{what}_{part}_l0" for what in ("weight", "bias") for part in ("ih", "hh")]
    rows = [rename(f"rnn.{name}", f"lstm.{name}") for name in names]
    return KeyTable((*rows, *(rename(f"linear_1.{leaf}", f"proj.{leaf}") for leaf in ("weight", "bias"))))


LAST_STATE_KEYS = _keys()
"""MMSA's names -> ours."""
