"""The connector of KOSMOS-2 (arXiv 2306.14824): one attention of learned queries over the features and themselves.

Flow
    features [N, S, Din] -> dense -> [N, S, D];  queries [Q, D]
    attention of the queries over [features, queries] -> [N, Q, D]

One attention layer only: no norm, no residual, no feed-forward.
Trap: the queries are keys and values too, after the features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.weights.keytable import KeyTable, rename


@dataclass(frozen=True, kw_only=True)
class LatentQueryConfig:
    """`queries`: features out per item; `unit`: L2 normalise the input features first."""

    queries: int = 64
    heads: int = 32
    unit: bool = False

    def build(self, in_width: int, out_width: int) -> "LatentQuery":
        """Build the connector with fresh weights."""
        return LatentQuery(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out, independent of `n_in`."""
        return self.queries


class LatentQuery(nn.Module):
    """`[N, S, Din] -> [N, Q, Dout]`"""

    def __init__(self, config: LatentQueryConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.dense = Linear(in_width, out_width)
        self.queries = nn.Parameter(torch.randn(config.queries, out_width))
        self.attn = AttentionConfig(
            width=out_width, heads=config.heads, source_width=out_width, qkv_bias=True, out_bias=True
        ).build()

    def forward(self, features: Tensor) -> Tensor:
        """float [N, S, Din] -> [N, Q, Dout]."""
        if self.config.unit:
            features = nn.functional.normalize(features, dim=-1)
        queries = self.queries.expand(len(features), -1, -1)
        return self.attn(queries, source=torch.cat((self.dense(features), queries), 1))


HF_KEYS = KeyTable(
    (
        rename("latent_query", "queries"),
        *(
            rename(f"{source}.{leaf}", f"{target}.{leaf}")
            for source, target in (
                ("dense", "dense"),
                *((f"x_attn.{name}_proj", f"attn.{name}_proj") for name in "qkv"),
                ("x_attn.out_proj", "attn.o_proj"),
            )
            for leaf in ("weight", "bias")
        ),
    )
)
"""Published names (without the prefix `image_to_text_projection.`) -> ours."""
