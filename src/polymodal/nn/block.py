"""Encoder transformer blocks: post-norm as in BERT (arXiv 1810.04805) and pre-norm as in ViT, both with a mask.

    PostNormBlock   x = attn_norm(x + attn(x)) -> x = cross_norm(x + cross(x, source))? -> x = mlp_norm(x + mlp(x))
    PreNormBlock    x = x + attn(attn_norm(x)) -> x = x + mlp(mlp_norm(x))

The three steps are separate methods (`self_attn`, `cross_attn`, `mlp_block`) for blocks that apply them to a part of
the sequence (in a Q-Former only the queries cross-attend).
Causal use: pass a causal mask; a cache holds the keys and values of earlier tokens, and those of the source, which are
computed in the first call.
Traps: the post-norm follows the SUM, so the input of the first attention is not normalised; a block with
cross-attention skips that step if there is no source (BERT's text-only use of the same weights).
"""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import LayerCache
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig


class CrossSlotConfig(Protocol):
    """Config of the `cross` child: `build()` returns a module called like Attention, with `source` and `cache`."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class PostNormBlockConfig:
    """Children of one block; all norms use `norm`.  `cross` is an AttentionConfig with a `source_width`."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-12))
    cross: CrossSlotConfig | None = None

    def build(self) -> "PostNormBlock":
        return PostNormBlock(self)


class PostNormBlock(nn.Module):
    """`[B, T, D] -> [B, T, D]`"""

    def __init__(self, config: PostNormBlockConfig):
        super().__init__()
        width = config.attention.width
        self.attn = config.attention.build()
        self.attn_norm = config.norm.build(width)
        self.cross = None if config.cross is None else config.cross.build()
        self.cross_norm = None if config.cross is None else config.norm.build(width)
        self.mlp = config.mlp.build()
        self.mlp_norm = config.norm.build(width)

    def forward(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None = None,
        token_types: Tensor | None = None,
        source: Tensor | None = None,
        source_mask: MaskSpec | PreparedMask | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """`mask`: over cached and new keys.  `source [B, S, D']`: input of cross-attention, `source_mask`: `[B, T, S]`.

        The source may be None if `cache` holds its keys and values.
        """
        x = self.self_attn(x, mask, token_types, cache)
        if source is not None or (cache is not None and cache.source is not None):
            x = self.cross_attn(x, source, source_mask, cache)
        return self.mlp_block(x, token_types)

    def self_attn(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None,
        token_types: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Self-attention, residual, norm."""
        return self.attn_norm(x + self.attn(x, mask, cache=cache, token_types=token_types), token_types)

    def cross_attn(
        self,
        x: Tensor,
        source: Tensor | None,
        source_mask: MaskSpec | PreparedMask | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Cross-attention, residual, norm; the identity for a block without cross-attention."""
        if self.cross is None or self.cross_norm is None:
            return x
        return self.cross_norm(x + self.cross(x, source_mask, source=source, cache=cache))

    def mlp_block(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        """Feed-forward, residual, norm."""
        return self.mlp_norm(x + self.mlp(x, token_types), token_types)


@dataclass(frozen=True, kw_only=True)
class PreNormBlockConfig:
    """Children of one pre-norm block; both norms use `norm`, or that of the feed-forward part its own `mlp_norm`."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=LayerNormConfig)
    mlp_norm: NormConfig | None = None

    def build(self) -> "PreNormBlock":
        return PreNormBlock(self)


class PreNormBlock(nn.Module):
    """`[B, T, D] -> [B, T, D]`; called like PostNormBlock, without a source."""

    def __init__(self, config: PreNormBlockConfig):
        super().__init__()
        width = config.attention.width
        self.attn_norm = config.norm.build(width)
        self.attn = config.attention.build()
        self.mlp_norm = (config.mlp_norm or config.norm).build(width)
        self.mlp = config.mlp.build()

    def forward(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None = None,
        token_types: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        x = x + self.attn(self.attn_norm(x, token_types), mask, cache=cache, token_types=token_types)
        return x + self.mlp(self.mlp_norm(x, token_types), token_types)
