"""Fusion type A: gated cross-attention in front of decoder blocks, with "who sees which item" as data.

Papers: Flamingo (arXiv 2204.14198); OpenFlamingo (2308.01390) and IDEFICS (2306.16527) use the same block.

Flow, in a block's `cross` slot
    x [B, T, D] -> attn_norm -> attn(queries = text, keys = features of the visible items) -> * tanh(attn_gate)
       + x -> mlp_norm -> mlp -> * tanh(mlp_gate)          the sum of both branches is what the block adds to x
CrossContext: features [B, S, D'], the item of each feature [B, S], which items each token sees [B, T, N]

The published forms differ by children: Flamingo MLP "squared_relu" with the decoder's heads, OpenFlamingo layer norm,
8 heads of 64 and MLP "gelu", IDEFICS RMS norms, norms on queries and keys and a gated MLP.

CrossAttention is the first of the two branches alone and without a gate (CogAgent, arXiv 2312.08914).

Traps
- A token that sees no item gets exactly zero from the attention, before the gate; the feed-forward branch acts on it
  all the same, text before the first picture included.
- Tokens behind the prompt see what its last token saw.
- Keys and values are computed once and kept in the cache; a new picture in the same cache needs `forget_sources`.
- Gates start at zero, where the decoder equals the bare one bit for bit.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import LayerCache
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze

Block = TypeVar("Block")


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossContext:
    """What cross-attention looks at, for a whole sequence.

    features: [B, S, D'] or None when no row has an item.  items: int64 [B, S], the item of each feature, N for
    padding.  visible: bool [B, T, N], which items each token of the prompt sees.
    """

    features: Tensor | None
    items: Tensor
    visible: Tensor

    def mask(self, start: int, count: int, rows: int) -> MaskSpec:
        """Visibility of tokens start..start+count-1 for `rows` rows; more rows than B are equal copies (beams)."""
        seen = F.pad(self.seen(start, count, len(self.visible)), (0, 1))  # the item N, which nobody sees
        seen = seen.gather(-1, self.items[:, None].expand(-1, count, -1))
        if rows != len(seen):
            seen = seen.repeat_interleave(rows // len(seen), 0)
        return MaskSpec(causal=False, visible=seen)

    def seen(self, start: int, count: int, rows: int) -> Tensor:
        """Which items these tokens see, bool [rows, count, N]; those behind the prompt what its last token saw."""
        length = self.visible.shape[1]
        if start + count <= length:
            seen = self.visible[:, start : start + count]
        else:
            steps = torch.arange(start, start + count, device=self.visible.device).clamp_max(length - 1)
            seen = self.visible[:, steps]
        return seen if rows == len(seen) else seen.repeat_interleave(rows // len(seen), 0)


@dataclass(frozen=True, kw_only=True)
class GatedCrossAttentionConfig:
    """attention: its `source_width` is the features' width.  gate_width: 1, or the width for a gate per channel."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=LayerNormConfig)
    gate_width: int = 1

    def __post_init__(self) -> None:
        if self.attention.source_width is None:
            raise ConfigError("gated cross-attention: attention.source_width must be the width of the features")
        if self.gate_width not in (1, self.attention.width):
            raise ConfigError(f"gated cross-attention: gate_width is 1 or {self.attention.width}: {self.gate_width}")

    def build(self) -> "GatedCrossAttention":
        return GatedCrossAttention(self)


class GatedCrossAttention(nn.Module):
    """`f(x [B, T, D], context, cache) -> [B, T, D]`, which is added to x; zero while both gates are."""

    def __init__(self, config: GatedCrossAttentionConfig):
        super().__init__()
        width = config.attention.width
        self.attn_norm = config.norm.build(width)
        self.attn = config.attention.build()
        self.attn_gate = nn.Parameter(torch.zeros(config.gate_width))
        self.mlp_norm = config.norm.build(width)
        self.mlp = config.mlp.build()
        self.mlp_gate = nn.Parameter(torch.zeros(config.gate_width))
        self.biased = config.attention.out_bias

    def forward(self, x: Tensor, context: CrossContext, cache: LayerCache | None = None) -> Tensor:
        seen = self.look(x, context, cache)
        branch = self.mlp(self.mlp_norm(x if seen is None else x + seen)) * self.mlp_gate.tanh()
        return branch if seen is None else seen + branch

    def look(self, x: Tensor, context: CrossContext, cache: LayerCache | None = None) -> Tensor | None:
        """The gated attention branch [B, T, D], exactly zero in rows that see no item; None without any feature."""
        out = attended(self.attn, self.attn_norm(x), context, cache, self.biased)
        return None if out is None else out * self.attn_gate.tanh()


def attended(
    attn: nn.Module, x: Tensor, context: CrossContext, cache: LayerCache | None, biased: bool
) -> Tensor | None:
    """Attention of x [B, T, D] over the items that each token sees, exactly zero where it sees none; None without any
    feature."""
    if context.features is None or context.features.shape[1] == 0:
        return None
    start = 0 if cache is None else cache.length
    mask = context.mask(start, x.shape[1], len(x))
    out: Tensor = attn(x, mask, cache=cache, source=context.features)
    if biased and mask.visible is not None:
        out = torch.where(mask.visible.any(-1, keepdim=True), out, 0.0)
    return out


@dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig:
    """attention: its `source_width` is the features' width."""

    attention: AttentionConfig
    norm: NormConfig = field(default_factory=LayerNormConfig)

    def __post_init__(self) -> None:
        if self.attention.source_width is None:
            raise ConfigError("cross-attention: attention.source_width must be the width of the features")

    def build(self) -> "CrossAttention":
        return CrossAttention(self)


class CrossAttention(nn.Module):
    """`f(x [B, T, D], context, cache) -> [B, T, D]`, which is added to x; no gate."""

    def __init__(self, config: CrossAttentionConfig):
        super().__init__()
        self.norm = config.norm.build(config.attention.width)
        self.attn = config.attention.build()
        self.biased = config.attention.out_bias

    def forward(self, x: Tensor, context: CrossContext, cache: LayerCache | None = None) -> Tensor:
        seen = attended(self.attn, self.norm(x), context, cache, self.biased)
        return torch.zeros_like(x) if seen is None else seen


def with_cross_attention(blocks: Iterable[Block], cross: Any, at: Collection[int]) -> tuple[Block, ...]:
    """The block configs with `cross` in the slot of the blocks numbered in `at`; raises ConfigError for others."""
    blocks = tuple(blocks)
    if outside := sorted(i for i in at if not 0 <= i < len(blocks)):
        raise ConfigError(f"cross-attention: blocks {outside} do not exist, the decoder has {len(blocks)}")
    return tuple(replace(block, cross=cross) if i in at else block for i, block in enumerate(blocks))  # type: ignore[type-var]


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


OPEN_FLAMINGO_KEYS = KeyTable(
    (
        rename("attn_gate", "attn_gate"),
        rename("ff_gate", "mlp_gate"),
        *_norm("attn.norm", "attn_norm"),
        rename("attn.to_q.weight", "attn.q_proj.weight"),
        split("attn.to_kv.weight", ("attn.k_proj.weight", "attn.v_proj.weight")),
        rename("attn.to_out.weight", "attn.o_proj.weight"),
        *_norm("ff.0", "mlp_norm"),
        rename("ff.1.weight", "mlp.up_proj.weight"),
        rename("ff.3.weight", "mlp.down_proj.weight"),
    )
)
"""OpenFlamingo's names of one block (`gated_cross_attn_layer.`) -> ours."""


def idefics_keys(vector_gates: bool) -> KeyTable:
    """IDEFICS' names of one block (`model.gated_cross_attn_layers.{}.`) -> ours; gates are (1, 1, D) or (1,)."""
    shape = (Squeeze(0), Squeeze(0)) if vector_gates else ()
    return KeyTable(
        (
            rename("alpha_cross_attn", "attn_gate", *shape),
            rename("alpha_dense", "mlp_gate", *shape),
            rename("input_layernorm.weight", "attn_norm.weight"),
            *(rename(f"cross_attn.{name}_proj.weight", f"attn.{name}_proj.weight") for name in "qkvo"),
            *(rename(f"cross_attn.{name}_layer_norm.weight", f"attn.{name}_norm.weight") for name in "qk"),
            rename("post_attention_layernorm.weight", "mlp_norm.weight"),
            *(rename(f"mlp.{name}_proj.weight", f"mlp.{name}_proj.weight") for name in ("gate", "up", "down")),
        )
    )
