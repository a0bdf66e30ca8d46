"""Neighbouring features joined, then one linear: the connector of MiniGPT-4 with LLaMA-2 (arXiv 2304.10592).

[N, S, D'] -> groups of `count` CONSECUTIVE features, row-major: a run along a row, not a square -> [N, S / count,
count * D'] -> linear -> [N, S / count, E]
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class NeighboursConfig:
    """`count`: features joined into one."""

    width: int
    out_width: int
    count: int = 4

    def tokens(self, features: int) -> int:
        """Features that leave for `features` that enter."""
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
        """Raises ConfigError when the features do not divide into groups."""
        count = self.config.count
        if features.shape[1] % count:
            raise ConfigError(f"neighbours: {features.shape[1]} features do not divide into groups of {count}")
        return self.proj(features.unflatten(1, (-1, count)).flatten(2))
