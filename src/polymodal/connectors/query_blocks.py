"""The visual connector of LLaMA-Adapter V2 (arXiv 2304.15010): learned queries prepended to the features, then blocks.

Flow
    features [N, S, Din] -> proj -> norm -> [Q queries, S features] -> blocks with bidirectional attention
    -> the first Q -> out_proj -> out_norm -> [N, Q, Dout]

Trap: there are no position embeddings.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig, NormConfig


class BlockConfig(Protocol):
    """`build()` returns a module called as `f(x)`, [N, S, D] -> [N, S, D], such as a ViT block."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class QueryBlocksConfig:
    """`queries` learned queries; `width`: of the blocks."""

    queries: int
    width: int
    blocks: tuple[BlockConfig, ...]
    norm: NormConfig = field(default_factory=LayerNormConfig)

    def build(self, in_width: int, out_width: int) -> "QueryBlocks":
        """Build the connector with fresh weights."""
        return QueryBlocks(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out: the queries."""
        return self.queries


class QueryBlocks(nn.Module):
    """`[N, S, Din] -> [N, Q, Dout]`"""

    def __init__(self, config: QueryBlocksConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.proj = Linear(in_width, config.width)
        self.norm = config.norm.build(config.width)
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.out_proj = Linear(config.width, out_width)
        self.out_norm = config.norm.build(out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Map float [N, S, Din] to [N, Q, Dout]."""
        x = self.norm(self.proj(features))
        x = torch.cat((self.queries.expand(x.shape[0], -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out_norm(self.out_proj(x[:, : self.config.queries]))
        return out
