"""VideoChat's connector (arXiv 2305.06355): BLIP-2's frozen Q-Former asked with more queries than it was trained with.

features [N, S, D'] -> Q-Former with its own queries and `more` [Q + Q', D] -> linear -> [N, Q + Q', E]

Traps: the further queries are a parameter of their own, since they alone are trained; they start as zeros and so are
told apart only once they were trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.connectors.qformer import QFormerConfig
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class WiderQFormerConfig:
    """`more`: queries beside those of `qformer`."""

    qformer: QFormerConfig
    more: int
    out_width: int

    @property
    def tokens(self) -> int:
        """Features per item, independent of its length."""
        return self.qformer.queries + self.more

    def build(self) -> WiderQFormer:
        return WiderQFormer(self)


class WiderQFormer(nn.Module):
    """See the module docstring."""

    def __init__(self, config: WiderQFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.qformer = config.qformer.build()
        self.more = nn.Parameter(torch.zeros(config.more, config.qformer.width))
        self.proj = Linear(config.qformer.width, config.out_width)

    def forward(self, features: Tensor) -> Tensor:
        """[N, S, D'] -> [N, Q + Q', E]."""
        return self.proj(self.qformer(features, queries=torch.cat((self.qformer.queries, self.more))))
