"""The connector of Qwen-Audio (arXiv 2311.07919): one linear, and a learned vector at each end of an item.

Flow
    features [N, S, Din], count of each item -> linear -> first, its count of features, last -> N of [count + 2, Dout]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class MarkedLinearConfig:
    """It has no settings; sizes follow from the parts beside it."""

    def build(self, in_width: int, out_width: int) -> MarkedLinear:
        """Build the connector with fresh weights."""
        return MarkedLinear(in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` of one item."""
        return n_in + 2


class MarkedLinear(nn.Module):
    """`[N, S, Din]` -> N of `[count + 2, Dout]`"""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.proj = Linear(in_width, out_width)
        self.markers = nn.Parameter(torch.randn(2, out_width) * 0.02)

    def forward(self, features: Tensor, lengths: Tensor | Sequence[tuple[int, int]]) -> list[Tensor]:
        """lengths: the last number of each row is how many features belong to that item."""
        rows = lengths.tolist() if isinstance(lengths, Tensor) else lengths
        first, last = self.markers[:1], self.markers[1:]
        projected = self.proj(features)
        return [torch.cat((first, item[: row[-1]], last)) for item, row in zip(projected, rows, strict=True)]
