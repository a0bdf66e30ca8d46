"""The linear brick and the slot it fills.

Every linear inside a block is called as ``f(x, token_types)`` so that a routed or low-rank linear may take
its place; the plain one ignores ``token_types``.
"""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionConfig(Protocol):
    """Whatever can stand in a linear slot: ``build`` gives a module called as ``f(x, token_types)``."""

    def build(self, in_width: int, out_width: int, bias: bool = False) -> nn.Module: ...


class Linear(nn.Linear):
    """``nn.Linear`` that accepts and ignores the token types. ``[..., in] -> [..., out]``"""

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A plain linear; ``bias`` overrides what the surrounding part asks for (Whisper: keys have none)."""

    bias: bool | None = None

    def build(self, in_width: int, out_width: int, bias: bool = False) -> Linear:
        return Linear(in_width, out_width, bias=bias if self.bias is None else self.bias)
