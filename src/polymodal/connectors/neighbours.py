"""Concatenates neighbouring features, then one linear: the connector of MiniGPT-4 with LLaMA-2 (arXiv 2304.10592).

[N, S, D'] -> concatenate `count` CONSECUTIVE features, row-major: along a row, not a square -> [N, S / count,
count * D'] -> linear -> [N, S / count, E]
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class NeighboursConfig:
    """`count`: features that are concatenated into one."""

    width: int
    out_width: int
    count: int = 4

    def tokens(self, features: int) -> int:
        """Features out for `features` in."""
        return features // self.count

    def build(self) -> Neighbours:
        return Neighbours(self)


class Neighbours(nn.Module):
    """See the module docstring."""

    def __init__(self, config: NeighboursConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = Linear(config.width * config.count, config.out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Raises ConfigError unless the number of features is a multiple of `count`."""
        count = self.config.count
        if features.shape[1] % count:
            raise ConfigError(f"neighbours: expected a multiple of {count} features, found {features.shape[1]}")
        return self.proj(features.unflatten(1, (-1, count)).flatten(2))
