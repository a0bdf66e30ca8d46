"""A learned position for each feature of a picture, added behind its encoder (CogAgent, arXiv 2312.08914).

    features [N, S, D] + table [S, D] -> [N, S, D]

Trap: the encoder has positions of its own; these come on top, and start at zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AddedPositionsConfig:
    """`count`: features of an item."""

    count: int

    def build(self, width: int) -> "AddedPositions":
        """Build the table for features of `width`, zero."""
        return AddedPositions(self.count, width)


class AddedPositions(nn.Module):
    """`[N, S, D] -> [N, S, D]`; raises ConfigError for items of another length."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(count, width))

    def forward(self, features: Tensor) -> Tensor:
        """Features of the encoder plus their positions."""
        if features.shape[-2:] != self.table.shape:
            raise ConfigError(
                f"added positions: expected items of {list(self.table.shape)}, found {list(features.shape[-2:])}"
            )
        return features + self.table
