"""Pooling by attention: the mean of all features asks them once (InternVL, arXiv 2312.14238).

    features [N, S, D] -> mean [N, 1, D] -> norm -> query;  norm -> keys;  another norm -> values -> [N, E]

Trap: the class token is one of the features, in the mean too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import attend
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename


@dataclass(frozen=True, kw_only=True)
class AttentionPoolConfig:
    """One pooling; `eps` of its three norms."""

    width: int
    heads: int
    out_width: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"attention pool: width {self.width} must be a multiple of its {self.heads} heads")

    def build(self) -> AttentionPool:
        return AttentionPool(self)


class AttentionPool(nn.Module):
    """`[N, S, D] -> [N, E]`"""

    def __init__(self, config: AttentionPoolConfig) -> None:
        super().__init__()
        width, norm = config.width, LayerNormConfig(eps=config.eps)
        self.config = config
        self.q_norm, self.k_norm, self.v_norm = norm.build(width), norm.build(width), norm.build(width)
        self.q_proj, self.k_proj, self.v_proj = Linear(width, width), Linear(width, width), Linear(width, width)
        self.o_proj = Linear(width, config.out_width)

    def forward(self, features: Tensor) -> Tensor:
        asked = self.q_proj(self.q_norm(features.mean(1, keepdim=True)))
        keys, values = self.k_proj(self.k_norm(features)), self.v_proj(self.v_norm(features))
        q, k, v = (x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2) for x in (asked, keys, values))
        return self.o_proj(attend(q, k, v, None).transpose(1, 2).flatten(2)).squeeze(1)


def internvl_keys() -> KeyTable:
    """Names of InternVL's AttentionPoolingBlock -> ours."""
    rows: list[Row] = [rename(f"cross_attn.proj.{leaf}", f"o_proj.{leaf}") for leaf in ("weight", "bias")]
    for name in "qkv":
        rows += [rename(f"cross_attn.{name}.weight", f"{name}_proj.weight"),
                 rename(f"cross_attn.{name}_bias", f"{name}_proj.bias")]  # fmt: skip
        rows += [rename(f"norm1_{name}.{leaf}", f"{name}_norm.{leaf}") for leaf in ("weight", "bias")]
    return KeyTable(tuple(rows))
