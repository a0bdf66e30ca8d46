"""Queries in front of a decoder's text that look at a picture inside its blocks (QLLaMA, InternVL, arXiv 2312.14238).

    x [B, Q + T, D], features [B, S, D'] -> the first Q rows: attn(norm(x), norm(features)), all others exactly zero

It stands in a block's `cross` slot, `cross_at` "middle"; the block's context is the features.
Trap: rows behind the queries never look; without features (a text alone) nothing is added.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import LayerCache
from polymodal.nn.norm import NormConfig, RMSNormConfig
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class QueryAttentionConfig:
    """attention: its `source_width` is the features' width.  queries: how many rows look."""

    attention: AttentionConfig
    queries: int
    norm: NormConfig = field(default_factory=RMSNormConfig)

    def __post_init__(self) -> None:
        if self.attention.source_width is None:
            raise ConfigError("query attention: attention.source_width must be the width of the features")
        if self.queries < 1:
            raise ConfigError(f"query attention: expected one query at least, found {self.queries}")

    def build(self) -> QueryAttention:
        return QueryAttention(self)


class QueryAttention(nn.Module):
    """`f(x [B, T, D], features, cache) -> [B, T, D]`, which is added to x."""

    def __init__(self, config: QueryAttentionConfig) -> None:
        super().__init__()
        self.queries = config.queries
        self.attn_norm = config.norm.build(config.attention.width)
        self.source_norm = config.norm.build(config.attention.source_width or config.attention.width)
        self.attn = config.attention.build()

    def forward(self, x: Tensor, features: Tensor, cache: LayerCache | None = None) -> Tensor:
        seen: Tensor = self.attn(self.attn_norm(x[:, : self.queries]), source=self.source_norm(features))
        return F.pad(seen, (0, 0, 0, x.shape[1] - seen.shape[1]))


def internvl_keys(layer: str = "model.layers.{}") -> KeyTable:
    """Names of QLLaMA's cross-attention -> ours, in a decoder."""
    theirs, ours = f"{layer}.cross_attn", "blocks.{}.cross"
    names = {f"{theirs}.{x}_proj.weight": f"{ours}.attn.{x}_proj.weight" for x in "qkvo"}
    norms = {
        f"{theirs}.norm1.weight": f"{ours}.attn_norm.weight",
        f"{theirs}.norm2.weight": f"{ours}.source_norm.weight",
    }
    return KeyTable.of({**names, **norms})
