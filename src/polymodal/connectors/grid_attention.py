"""The adapter of Qwen-VL (arXiv 2308.12966): one cross-attention of learned queries that know where they look.

Flow
    features [N, S, Din] -> proj -> norm -> values [N, S, D];  keys: values + positions of a grid of S
    queries  [Q, D] -> norm -> + positions of a grid of Q;  attention -> norm -> linear -> [N, Q, D]

No residual and no feed-forward.
Traps: positions go to queries and keys, not to values; those of the keys are the queries' table resized bicubically;
the table is fixed, and all the same it lies among the parameters of published files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import attend
from polymodal.nn.grid_table import resized, sines_2d
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, drop, rename, split
from polymodal.weights.operations import Transpose


@dataclass(frozen=True, kw_only=True)
class GridAttentionConfig:
    """`queries`: features out per item, a square number.  `heads` None: one for 128 dimensions."""

    queries: int = 256
    heads: int | None = None
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-6))

    def __post_init__(self) -> None:
        if self.queries < 1 or math.isqrt(self.queries) ** 2 != self.queries:
            raise ConfigError(f"grid attention: queries lie on a square grid; found {self.queries} of them")

    def build(self, in_width: int, out_width: int) -> GridAttention:
        """Build the connector with fresh weights; ConfigError for a width that the heads do not divide."""
        heads = self.heads or out_width // 128
        if heads < 1 or out_width % heads or out_width % 4:
            raise ConfigError(f"grid attention: width {out_width} must be a multiple of 4 and of its {heads} heads")
        return GridAttention(self, in_width, out_width, heads)

    def tokens(self, n_in: int) -> int:
        """Features out, independent of `n_in`."""
        return self.queries


class GridAttention(nn.Module):
    """`[N, S, Din] -> [N, Q, Dout]`"""

    def __init__(self, config: GridAttentionConfig, in_width: int, out_width: int, heads: int) -> None:
        super().__init__()
        self.config, self.heads = config, heads
        self.side = math.isqrt(config.queries)
        self.proj = Linear(in_width, out_width, bias=False) if in_width != out_width else nn.Identity()
        self.norm = config.norm.build(out_width)
        self.queries = nn.Parameter(torch.randn(config.queries, out_width) * 0.02)
        self.query_norm = config.norm.build(out_width)
        self.positions = nn.Parameter(sines_2d(self.side, out_width))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Linear(out_width, out_width) for _ in range(4))
        self.out_norm = config.norm.build(out_width)
        self.out_proj = Linear(out_width, out_width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """float [N, S, Din] -> [N, Q, Dout]; raises ConfigError unless S is a square number."""
        side = math.isqrt(features.shape[1])
        if side * side != features.shape[1]:
            raise ConfigError(f"grid attention: expected features on a square grid, found {features.shape[1]} of them")
        values = self.norm(self.proj(features))
        keys = values + resized(self.positions, (self.side, self.side), (side, side))
        queries = (self.query_norm(self.queries) + self.positions).expand(len(features), -1, -1)
        seen = attend(self._heads(self.q_proj(queries)), self._heads(self.k_proj(keys)),
                      self._heads(self.v_proj(values)), None)  # fmt: skip
        return self.out_proj(self.out_norm(self.o_proj(seen.transpose(1, 2).flatten(2))))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def qwen_vl_keys(projects: bool = True) -> KeyTable:
    """The names of Qwen-VL (under `transformer.visual.`) -> ours.  projects: the widths in and out differ."""
    pairs = (("attn_pool.ln_kv", "norm"), ("attn_pool.ln_q", "query_norm"), ("attn_pool.attn.out_proj", "o_proj"),
             ("ln_post", "out_norm"))  # fmt: skip
    parts = ("q_proj", "k_proj", "v_proj")
    return KeyTable(
        (
            rename("attn_pool.query", "queries"),
            rename("attn_pool.pos_embed", "positions"),
            rename("attn_pool.kv_proj.weight", "proj.weight") if projects else drop("attn_pool.kv_proj.**"),
            split("attn_pool.attn.in_proj_weight", [f"{part}.weight" for part in parts]),
            split("attn_pool.attn.in_proj_bias", [f"{part}.bias" for part in parts]),
            *(
                rename(f"{source}.{leaf}", f"{target}.{leaf}")
                for source, target in pairs
                for leaf in ("weight", "bias")
            ),
            rename("proj", "out_proj.weight", Transpose()),
        )
    )
