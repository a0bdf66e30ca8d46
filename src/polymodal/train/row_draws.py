"""Random numbers of a batch, each row's from a seed of its own.

    seed_from(generator)                  what a collator's `drawn` keeps of a sample's place in the run
    RowDraws(seeds).normal(4, 8, 8)       [N, 4, 8, 8];  .whole(1000) int64 [N];  .share() in 0..1 [N]

A row's numbers are the same whichever rows stand beside it: however a step is cut, and whoever computes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def seed_from(generator: torch.Generator) -> int:
    """A seed for one row."""
    return int(torch.randint(2**62, (), generator=generator))


class RowDraws:
    """See the module docstring; later calls go on where earlier ones stopped."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """float32 [N, *shape]."""
        return torch.stack([torch.randn(shape, generator=each) for each in self._generators])

    def whole(self, below: int) -> Tensor:
        """int64 [N] in 0 .. below - 1."""
        return torch.stack([torch.randint(below, (), generator=each) for each in self._generators])

    def share(self) -> Tensor:
        """float32 [N] in 0 .. 1."""
        return torch.stack([torch.rand((), generator=each) for each in self._generators])
