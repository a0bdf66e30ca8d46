"""Unified-IO 2's resampler of earlier frames and sounds: learned latents look at the features of one of them.

    features [N, P, D'], mask [N, P] -> pre -> norm -> blocks: latents + cross(norm(latents), features), + mlp(norm)
    -> norm -> post [N, L, D]

Paper: arXiv 2312.17172.  Traps: no layer looks at the latents themselves; in the largest size q and k have length one
and a learned sharpness of each head (at most 100) in place of norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.nn.attention import Attention, AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.cache import LayerCache
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.rope import Rotation

SHARPEST = math.log(100)


class CosineAttention(Attention):
    """Cross-attention by the cosine of q and k, times a learned factor of each head."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.logit_scale = nn.Parameter(torch.full((config.heads,), math.log(10)))

    def _inputs(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None,
        rope: Rotation | None,
        cache: LayerCache | None,
        source: Tensor | None,
        token_types: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, PreparedMask | None]:
        q, k, v, prepared = super()._inputs(x, mask, rope, cache, source, token_types)
        sharpness = self.logit_scale.clamp_max(SHARPEST).exp()[:, None, None]
        return F.normalize(q, dim=-1) * sharpness, F.normalize(k, dim=-1), v, prepared


@dataclass(frozen=True, kw_only=True)
class CosineAttentionConfig(AttentionConfig):
    def build(self) -> CosineAttention:
        return CosineAttention(self)


@dataclass(frozen=True, kw_only=True)
class HistoryResamplerConfig:
    """latents: features of a frame or sound.  cosine: attention by cosine."""

    latents: int
    width: int
    heads: int
    depth: int
    ffn_width: int
    cosine: bool = False

    def build(self, in_width: int, out_width: int) -> HistoryResampler:
        return HistoryResampler(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` patches in."""
        return self.latents


class HistoryResampler(nn.Module):
    """See the module docstring."""

    def __init__(self, config: HistoryResamplerConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config, width, norm = config, config.width, RMSNormConfig()
        make = CosineAttentionConfig if config.cosine else AttentionConfig
        size = None if config.cosine else norm
        attention = make(width=width, heads=config.heads, source_width=width, q_norm=size, k_norm=size,
                         scale=1.0 if config.cosine else None)  # fmt: skip
        block = PreNormBlockConfig(attention=attention, norm=norm,
                                 mlp=MLPConfig(width=width, ffn_width=config.ffn_width, bias=False))  # fmt: skip
        self.pre_proj = LinearConfig().build(in_width, width, False)
        self.post_proj = LinearConfig().build(width, out_width, False)
        self.latents = nn.Parameter(torch.randn(config.latents, width) * width**-0.5)
        self.context_norm, self.norm = norm.build(width), norm.build(width)
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask int [N, P]: 1 = seen."""
        source = self.context_norm(self.pre_proj(features.to(self.pre_proj.weight.dtype)))
        x = self.latents.expand(len(source), -1, -1)
        rule = MaskSpec(causal=False, attention_mask=mask).prepare(1, source.shape[1], source.device)
        each: Any = self.blocks
        for block in each:
            x = x + block.attn(block.attn_norm(x), rule, source=source)
            x = x + block.mlp(block.mlp_norm(x))
        return self.post_proj(self.norm(x))
