"""A pre-norm decoder block whose cross-attention norms what it reads, too (4M, arXiv 2312.06647).

    x = x + attn(attn_norm(x)) -> x = x + cross(cross_norm(x), source_norm(source)) -> x = x + mlp(mlp_norm(x))

The source's keys and values lie in the cache after the first call, so it is normed once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import LayerCache
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class SourceBlockConfig:
    """Children of one block; all four norms use `norm`.  cross: an AttentionConfig with a `source_width`."""

    attention: AttentionConfig
    cross: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig

    def build(self) -> SourceBlock:
        return SourceBlock(self)


class SourceBlock(nn.Module):
    """`[B, T, D], source [B, S, D'] -> [B, T, D]`"""

    def __init__(self, config: SourceBlockConfig):
        super().__init__()
        width = config.attention.width
        self.attn_norm, self.attn = config.norm.build(width), config.attention.build()
        self.cross_norm, self.cross = config.norm.build(width), config.cross.build()
        self.source_norm = config.norm.build(config.cross.source_width or width)
        self.mlp_norm, self.mlp = config.norm.build(width), config.mlp.build()

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        mask: MaskSpec | PreparedMask | None = None,
        source_mask: MaskSpec | PreparedMask | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        x = x + self.attn(self.attn_norm(x), mask, cache=cache)
        read = None if cache is not None and cache.source is not None else self.source_norm(source)
        x = x + self.cross(self.cross_norm(x), source_mask, cache=cache, source=read)
        return x + self.mlp(self.mlp_norm(x))
