"""Optimisers as data: hyper-parameters as published, and `build(groups)` for what PyTorch has already.

    AdamW (arXiv 1711.05101)   Adam (1412.6980, weight decay in the gradient)   SGD with momentum

AdamW and Adam run as one kernel over each tensor (`fused`), which reads and writes memory a third as often as torch's
loop of operations; the step is the same but for rounding.
Traps: vectors (biases, norms, gates, temperatures) are never decayed, nor is what `undecayed` names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from polymodal.fields import check_fields


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """lr: peak rate, None where it was not published.  clip: largest norm of all gradients together.

    undecayed: prefixes, as in `Stage.train`, of matrices without weight decay.
    """

    lr: float | None = None
    weight_decay: float = 0.0
    clip: float | None = None
    undecayed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of groups that each bring their own lr and weight_decay."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerConfig):
    """Weight decay apart from the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerConfig):
    """Weight decay as a part of the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerConfig):
    """Stochastic gradient descent."""

    momentum: float = 0.9

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=self.momentum)
