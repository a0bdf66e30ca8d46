"""Multi-head attention on scaled-dot-product attention: self or cross, grouped heads, rope, cache, one mask.

    x [B,T,D] -> q_proj k_proj v_proj -> (q_norm, k_norm per head) -> rope -> cache.update -> SDPA -> o_proj
    cross:      k_proj v_proj read ``source [B,S,D']`` once; with a cache they are kept there for later steps

Grouped-query attention (arXiv 2305.13245): ``kv_heads`` < ``heads``; query head h reads key head
``h // (heads / kv_heads)``.  ``rope``, ``cache`` and ``mask`` are arguments; nothing is stored on the module.
``fuse_projections`` (nn/fuse.py) replaces q, k and v by one ``qkv_proj`` for inference.
Trap: a MaskSpec's queries are the last T keys, so the mask must cover the cached keys too.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.cache import LayerCache
from polymodal.nn.linear import LinearConfig, ProjectionConfig
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.norm import NormConfig
from polymodal.nn.precision import autocast_dtype
from polymodal.nn.rope import Rotation, apply_rope


@dataclass(frozen=True, kw_only=True)
class AttentionLinears:
    """What fills the four linear slots; replace one to route it or to change its bias."""

    q: ProjectionConfig = field(default_factory=LinearConfig)
    k: ProjectionConfig = field(default_factory=LinearConfig)
    v: ProjectionConfig = field(default_factory=LinearConfig)
    o: ProjectionConfig = field(default_factory=LinearConfig)


class PrefixConfig(Protocol):
    """What may stand in a ``prefix`` slot: its module is called as ``f(q, k_proj, v_proj, prompt, scale)`` and returns
    what is added to the heads' output ``[B, H, T, E]`` before ``o_proj`` (LLaMA-Adapter)."""

    def build(self, width: int, heads: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """``source_width`` set makes it cross-attention.  ``scale`` defaults to ``head_dim ** -0.5``.

    ``window`` narrows every mask given to this layer (Mistral).  ``interleaved`` must equal the rope's.
    ``prefix``: a second attention over prompt tokens; its prompt arrives as ``source``.
    """

    width: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    q_norm: NormConfig | None = None
    k_norm: NormConfig | None = None
    scale: float | None = None
    window: int | None = None
    source_width: int | None = None
    interleaved: bool = False
    prefix: PrefixConfig | None = None
    linears: AttentionLinears = field(default_factory=AttentionLinears)

    def __post_init__(self) -> None:
        if self.heads < 1 or self.key_heads < 1 or self.width < 1:
            raise ConfigError(f"width {self.width}, heads {self.heads} and kv_heads {self.key_heads} must be 1 or more")
        if self.head_dim is None and self.width % self.heads:
            raise ConfigError(f"width {self.width} must be a multiple of heads {self.heads}, or set head_dim")
        if self.heads % self.key_heads:
            raise ConfigError(f"heads {self.heads} must be a multiple of kv_heads {self.key_heads}")

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def size(self) -> int:
        """Dimensions of one head."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    def build(self) -> "Attention":
        return Attention(self)


class Attention(nn.Module):
    """``[B, T, D] -> [B, T, D]``"""

    qkv_proj: nn.Module | None

    def __init__(self, config: AttentionConfig):
        super().__init__()
        self.config = config
        queries, keys = config.heads * config.size, config.key_heads * config.size
        source = config.width if config.source_width is None else config.source_width
        self.q_proj = config.linears.q.build(config.width, queries, config.qkv_bias)
        self.k_proj = config.linears.k.build(source, keys, config.qkv_bias)
        self.v_proj = config.linears.v.build(source, keys, config.qkv_bias)
        self.qkv_proj = None
        self.o_proj = config.linears.o.build(queries, config.width, config.out_bias)
        self.q_norm = None if config.q_norm is None else config.q_norm.build(config.size)
        self.k_norm = None if config.k_norm is None else config.k_norm.build(config.size)
        self.prefix = None if config.prefix is None else config.prefix.build(config.width, config.heads)

    def forward(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None = None,
        rope: Rotation | None = None,
        cache: LayerCache | None = None,
        source: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """``mask`` None: every query sees every key.  ``rope``: cos, sin ``[B, 1, T, R]``; four of them with xPos.

        Cross-attention: ``source [B, S, D']`` may be None once the cache holds its keys and values.
        """
        q, k, v, mask = self._inputs(x, mask, rope, cache, source, token_types)
        out = attend(q, k, v, mask, self.config.scale)
        if self.prefix is not None:
            out = out + self.prefix(q, self.k_proj, self.v_proj, source, self.config.scale)
        return self.o_proj(out.transpose(1, 2).flatten(2), token_types)

    def weights(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None = None,
        rope: Rotation | None = None,
        cache: LayerCache | None = None,
        source: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """What each query takes of each key ``[B, H, T, S]``, for the arguments of a forward; slow, for inspection.

        Raises ConfigError for a call with a cache, which a second call would write to again.
        """
        if cache is not None:
            raise ConfigError("attention weights are those of a whole pass; leave the cache out")
        q, k, _, mask = self._inputs(x, mask, rope, cache, source, token_types)
        # Attention over the rows of an identity matrix gives the weights themselves, by the kernel's own rules.
        rows = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:2], -1, -1)
        return attend(q, k, rows, mask, self.config.scale)

    def _inputs(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None,
        rope: Rotation | None,
        cache: LayerCache | None,
        source: Tensor | None,
        token_types: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, PreparedMask | None]:
        """Queries, keys, values and the mask of one call."""
        if self.config.source_width is None:
            q, k, v = self._project(x, rope, token_types)
            if cache is not None:
                k, v = cache.update(k, v)
        else:
            q = self._heads(self.q_proj(x, token_types), self.q_norm)
            k, v = self._source(source, cache)
        if isinstance(mask, MaskSpec):
            mask = narrowed(mask, self.config.window).prepare(q.shape[2], k.shape[2], x.device)
        elif mask is None and self.config.window is not None:
            mask = MaskSpec(causal=False, window=self.config.window).prepare(q.shape[2], k.shape[2], x.device)
        return q, k, v, mask

    def _project(self, x: Tensor, rope: Rotation | None, token_types: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries ``[B, H, T, E]``, rotated keys and values ``[B, K, T, E]``."""
        if self.qkv_proj is not None:
            heads, keys = self.config.heads, self.config.key_heads
            qk, v = self._heads(self.qkv_proj(x, token_types), None).split((heads + keys, keys), 1)
            if rope is not None and len(rope) == 2:
                qk, rope = apply_rope(qk, *rope, self.config.interleaved), None
            return *self._rotate(qk[:, :heads], qk[:, heads:], rope), v
        q = self._heads(self.q_proj(x, token_types), self.q_norm)
        k = self._heads(self.k_proj(x, token_types), self.k_norm)
        v = self._heads(self.v_proj(x, token_types), None)
        return *self._rotate(q, k, rope), v

    def _rotate(self, q: Tensor, k: Tensor, rope: Rotation | None) -> tuple[Tensor, Tensor]:
        if rope is None:
            return q, k
        interleaved = self.config.interleaved
        return apply_rope(q, *rope[:2], interleaved), apply_rope(k, *rope[-2:], interleaved)

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        x = x.unflatten(-1, (-1, self.config.size))
        return (x if norm is None else norm(x)).transpose(1, 2)

    def _source(self, source: Tensor | None, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        if cache is not None and cache.source is not None:
            return cache.source
        if source is None:
            raise ValueError("cross-attention needs a source, or a cache that holds its keys and values")
        pair = self._heads(self.k_proj(source), self.k_norm), self._heads(self.v_proj(source), None)
        if cache is not None:
            cache.source = pair
        return pair


def narrowed(mask: MaskSpec, window: int | None) -> MaskSpec:
    """``mask`` with the narrower of its own window and ``window``."""
    if window is None or (mask.window is not None and mask.window <= window):
        return mask
    return replace(mask, window=window)


SHORT = 256  # keys


def _half_to_widen(q: Tensor, k: Tensor, v: Tensor) -> torch.dtype | None:
    """The half-precision dtype of an attention that is computed in float32 instead; None for all others.

    On a CPU the backward kernel of few keys takes 2.5 times as long in bfloat16 (7 rows of 103 tokens, 9 heads: 11.5
    and 4.4 ms).
    """
    if q.device.type != "cpu" or k.shape[2] > SHORT or not (q.requires_grad or k.requires_grad or v.requires_grad):
        return None
    dtype = autocast_dtype("cpu") or q.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: PreparedMask | None, scale: float | None = None) -> Tensor:
    """SDPA of ``q [B, H, T, E]`` over ``k, v [B, K, S, E]`` with H a multiple of K -> ``[B, H, T, E]``.

    Rows the mask marks as empty give exactly zero.
    """
    mask = mask or PreparedMask()
    if mask.query_scale is not None:
        q = q * mask.query_scale
    if mask.kernel is not None:
        return mask.kernel(q, k, v, scale)
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and q.shape[2] == 1 and (mask.allow is None or mask.allow.shape[1] == 1):
        # One query: the query heads of a group become rows of one key head, so nothing is repeated.
        rows = q.reshape(q.shape[0], k.shape[1], groups, q.shape[3])
        out = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask.allow, scale=scale).reshape(q.shape)
    else:
        if groups > 1 and mask.allow is not None and q.device.type != "cpu":
            # Accelerator kernels take a mask or grouped heads, not both; without this they fall to the slowest.
            k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
        allow, half = mask.allow, _half_to_widen(q, k, v)
        if half is not None:
            q, k, v = q.float(), k.float(), v.float()
            allow = allow.float() if allow is not None and allow.is_floating_point() else allow  # what biased() adds
        with nullcontext() if half is None else torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=allow, is_causal=mask.causal, scale=scale, enable_gqa=groups > 1
            )
        out = out if half is None else out.to(half)
    return out if mask.empty is None else torch.where(mask.empty, 0.0, out)
