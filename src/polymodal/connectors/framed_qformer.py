"""InternLM-XComposer's perceive sampler (arXiv 2309.15112): a Q-Former between two learned marks.

features [N, S, D'] -> Q-Former [N, Q, D] -> linear [N, Q, E] -> [begin, features, end] [N, Q + 2, E]

Trap: the marks were never trained, yet published files hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.connectors.qformer import QFormerConfig
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class FramedQFormerConfig:
    """`qformer` and the width its linear leads to."""

    qformer: QFormerConfig
    out_width: int

    @property
    def tokens(self) -> int:
        """Features per item, the marks among them."""
        return self.qformer.queries + 2

    def build(self) -> FramedQFormer:
        return FramedQFormer(self)


class FramedQFormer(nn.Module):
    """See the module docstring."""

    def __init__(self, config: FramedQFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.qformer = config.qformer.build()
        self.proj = Linear(config.qformer.width, config.out_width)
        self.begin, self.end = (nn.Parameter(torch.zeros(config.out_width)) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """[N, S, D'] -> [N, Q + 2, E]."""
        x = self.proj(self.qformer(features))
        shape = (len(x), 1, -1)
        return torch.cat((self.begin.expand(shape), x, self.end.expand(shape)), 1)
