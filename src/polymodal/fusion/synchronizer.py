"""MM-Interleaved's synchroniser: every token of a text looks at the feature maps of all pictures before it.

Paper: MM-Interleaved (arXiv 2401.10208), section 3.2, "multi-modal feature synchronizer"; deformable attention is
Deformable DETR's (2010.04159).

    x [B, T, D], CrossContext of pictures -> for each head a few points, on all maps of all visible pictures
        -> weighted sum, one softmax for all of them -> linear -> * tanh(gate), which is added to x

Traps
- Offsets are shared by the maps and count in cells of a 16 x 16 grid, whatever a map's side: the places are the same.
- Beside all points stands one option more, of logit zero, that gives a vector of its own (zeros, as published): a
  token that sees no picture takes it alone and gets the gated bias of the last linear, not zero.
- Pictures are told apart by how far back they are: the newest that a token sees has rank 1, one that it does not see 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.fusion.cross_attention import CrossContext
from polymodal.nn.cache import LayerCache
from polymodal.nn.deformable import NAMES, sample_levels
from polymodal.nn.linear import Linear
from polymodal.nn.norm import NormConfig, RMSNormConfig
from polymodal.weights.keytable import KeyTable, rename


@dataclass(frozen=True, kw_only=True)
class FeatureSynchronizerConfig:
    """For a decoder block's `cross` slot.  sides: of each picture's maps, which stand one behind the other in the
    features of its item, of `source_width`.  grid: in whose cells offsets count.  ranks: one more than the pictures
    that a token may see."""

    width: int
    source_width: int
    sides: tuple[int, ...]
    heads: int = 16
    points: int = 8
    grid: int = 16
    ranks: int = 50
    norm: NormConfig = field(default_factory=RMSNormConfig)

    @property
    def length(self) -> int:
        """Features of one picture."""
        return sum(side * side for side in self.sides)

    def build(self) -> FeatureSynchronizer:
        return FeatureSynchronizer(self)


class FeatureSynchronizer(nn.Module):
    """`f(x [B, T, D], context, cache) -> [B, T, D]`, which is added to x; zero while the gate is."""

    def __init__(self, config: FeatureSynchronizerConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, heads = config.width, config.source_width, config.heads
        self.gate = nn.Parameter(torch.zeros(1))
        self.attn_norm = config.norm.build(width)
        self.source_norm = config.norm.build(inner)
        self.q_proj = Linear(width, width)
        self.ranks = nn.Embedding(config.ranks, width)
        self.offsets = Linear(width, heads * config.points * 2)
        self.weights = Linear(width, heads * len(config.sides) * (config.points + 1))
        self.v_proj = Linear(inner, inner)
        self.o_proj = Linear(inner, width)
        self.nothing = nn.Parameter(torch.zeros(inner), requires_grad=False)
        nn.init.trunc_normal_(self.ranks.weight, std=0.02)
        nn.init.zeros_(self.offsets.weight)
        nn.init.uniform_(self.offsets.bias, -3.0, 3.0)

    def forward(self, x: Tensor, context: CrossContext, cache: LayerCache | None = None) -> Tensor:
        start = 0 if cache is None else cache.length
        if context.features is None:
            found = self.nothing.expand(*x.shape[:2], -1)
        else:
            seen = context.seen(start, x.shape[1], len(x))
            found = self.look(self.q_proj(self.attn_norm(x)), self._values(context.features, len(x), cache), seen)
        return self.o_proj(found) * self.gate.tanh()

    def look(self, queries: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """queries [B, T, D], values [B, N, S, H, E], seen bool [B, T, N] -> [B, T, H * E].

        Raises PromptError for more pictures than there are ranks.
        """
        config, (rows, _, pictures) = self.config, seen.shape
        if pictures >= config.ranks:
            raise PromptError(f"a token may see {config.ranks - 1} pictures; found {pictures} in a conversation")
        steps = seen.long()
        ranks = (steps.sum(-1, keepdim=True) + 1 - steps.cumsum(-1)) * steps
        shape = (config.heads, len(config.sides), config.points + 1)
        offsets = self._of(self.offsets, queries, ranks).unflatten(-1, (config.heads, 1, config.points, 2))
        logits = self._of(self.weights, queries, ranks).unflatten(-1, shape)[..., :-1]  # [B, T, N, H, L, P]
        logits = logits.masked_fill(~seen[..., None, None, None], -10000.0).permute(0, 1, 3, 2, 4, 5)
        flat = logits.flatten(3).float()
        shares = torch.cat((flat.new_zeros(*flat.shape[:-1], 1), flat), -1).softmax(-1).to(queries.dtype)
        weights = shares[..., 1:].reshape(logits.shape).permute(0, 3, 1, 2, 4, 5)  # [B, N, T, H, L, P]
        places = 0.5 + offsets.transpose(1, 2) / config.grid
        places = places.expand(-1, -1, -1, -1, len(config.sides), -1, -1)
        found = sample_levels(values.flatten(0, 1), config.sides, places.flatten(0, 1), weights.flatten(0, 1))
        found = found.unflatten(0, (rows, pictures)).sum(1)
        ignored = self.nothing.unflatten(0, (config.heads, -1)) * shares[..., :1]
        return found + ignored.flatten(-2)

    def _of(self, linear: Linear, queries: Tensor, ranks: Tensor) -> Tensor:
        """The linear of (query + vector of the rank): [B, T, D], [B, T, N] -> [B, T, N, F], added behind the linear."""
        table = F.linear(self.ranks.weight, linear.weight)
        return linear(queries)[:, :, None] + table[ranks]

    def _values(self, features: Tensor, rows: int, cache: LayerCache | None) -> Tensor:
        """[B, N * S, D'] -> [rows, N, S, H, E], computed once into the cache; more rows than B are equal copies."""
        if cache is not None and cache.source is not None:
            values = cache.source[0]
        else:
            whole = features.shape[1] // self.config.length
            values = self.v_proj(self.source_norm(features)).unflatten(1, (whole, self.config.length))
            values = values.unflatten(-1, (self.config.heads, -1))
            if cache is not None:
                cache.source = (values, values[:, :0])
        return values if rows == len(values) else values.repeat_interleave(rows // len(values), 0)


OFFICIAL_KEYS = KeyTable(
    (
        rename("gate", "gate"),
        rename("norm1.weight", "attn_norm.weight"),
        rename("norm2.weight", "source_norm.weight"),
        rename("attn.query_relpos.weight", "ranks.weight"),
        *(
            rename(f"attn.{theirs}.{leaf}", f"{ours}.{leaf}")
            for theirs, ours in {**NAMES, "dynamic_offset_mask": "q_proj"}.items()
            for leaf in ("weight", "bias")
        ),
    )
)
"""Official names of a block's `llama_cross_attn.` -> ours, but `attn.ignore_token`, which is [1, 1, 1, D']."""
