"""How much of a sample's variance is left at each step of training, as published schedules have it.

    shares.kept(count) -> float32 [count] on the host, falling from nearly 1

RootLinear      betas are squares of equal steps between the roots of their ends (Stable Diffusion)
Linear          betas are equal steps (DDPM, arXiv 2006.11239)
SquaredCosine   what is left falls as a squared cosine (arXiv 2102.09672)
ShiftedCosine   its logarithmic ratio of signal to noise, shifted (arXiv 2301.11093)
EndingInNoise   another one, scaled so that nothing is left at the last step (arXiv 2305.08891)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from polymodal.errors import ConfigError

LONGEST = 15.0  # of logarithmic ratios


class Shares(Protocol):
    """See the module docstring."""

    def kept(self, count: int) -> Tensor: ...


@dataclass(frozen=True)
class RootLinear:
    """first, last: betas."""

    first: float = 0.00085
    last: float = 0.012

    def kept(self, count: int) -> Tensor:
        betas = torch.linspace(self.first**0.5, self.last**0.5, count, device="cpu") ** 2
        return (1 - betas).cumprod(0)


@dataclass(frozen=True)
class Linear:
    """first, last: betas."""

    first: float = 0.0001
    last: float = 0.02

    def kept(self, count: int) -> Tensor:
        return (1 - torch.linspace(self.first, self.last, count, device="cpu")).cumprod(0)


@dataclass(frozen=True)
class SquaredCosine:
    """most: of a beta."""

    most: float = 0.999

    def kept(self, count: int) -> Tensor:
        left = [math.cos((step / count + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(count + 1)]
        betas = [min(1 - after / before, self.most) for before, after in pairwise(left)]
        return (1 - torch.tensor(betas, device="cpu")).cumprod(0)


@dataclass(frozen=True)
class ShiftedCosine:
    """shift: above 1 more noise, below 1 less.  Nothing is left at the last step."""

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ConfigError(f"schedule: expected a shift above 0, found {self.shift}")

    def kept(self, count: int) -> Tensor:
        times = torch.linspace(0, 1, count, device="cpu").double()
        ratio = -2 * ((math.pi * times / 2).tan().log() + math.log(self.shift))
        kept = ratio.clamp(-LONGEST, LONGEST).float().sigmoid()
        kept[-1] = 0.0
        return kept


@dataclass(frozen=True)
class EndingInNoise:
    """of: a schedule that leaves a little."""

    of: Shares

    def kept(self, count: int) -> Tensor:
        roots = self.of.kept(count).sqrt()
        roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
        return roots.square()
