"""An output projector: hidden states of signal tokens -> condition of a generator, by a small encoder-decoder.

Papers: GILL (arXiv 2305.17216), NExT-GPT (arXiv 2309.05519).

    states [B, n, D] + embeddings of the same tokens [B, n, D] -> inlet [B, n, W] -> encoder blocks -> norm
    learned queries [1, Q, W] -> decoder blocks, cross-attending to the encoder output -> norm -> outlet [B, Q, E]

Traps: states and embeddings are added before the first linear; blocks are pre-norm with ReLU; encoder and decoder
each end with a norm (torch's `nn.Transformer`); E and Q are those of the generator's text encoder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNorm
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class QueryProjectorConfig:
    """`in_width`: of the backbone; `queries`, `out_width`: Q and E of the generator; `depth`: of either stack."""

    in_width: int
    out_width: int
    queries: int = 77
    width: int = 512
    depth: int = 4
    heads: int = 4
    ffn_width: int = 2048

    def build(self) -> "QueryProjector":
        return QueryProjector(self)


class ProjectorBlock(nn.Module):
    """One pre-norm block; `cross` adds cross-attention to a source."""

    def __init__(self, config: QueryProjectorConfig, cross: bool) -> None:
        super().__init__()
        width = config.width
        attention = AttentionConfig(width=width, heads=config.heads, qkv_bias=True, out_bias=True)
        self.attn_norm = LayerNorm(width)
        self.attn = attention.build()
        self.cross_norm = LayerNorm(width) if cross else None
        self.cross = (
            AttentionConfig(width=width, heads=config.heads, qkv_bias=True, out_bias=True, source_width=width).build()
            if cross
            else None
        )
        self.mlp_norm = LayerNorm(width)
        self.mlp = MLPConfig(width=width, ffn_width=config.ffn_width, activation="relu").build()

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """`[B, Q, W]`, source `[B, n, W]` -> `[B, Q, W]`"""
        x = x + self.attn(self.attn_norm(x))
        if self.cross is not None and self.cross_norm is not None:
            x = x + self.cross(self.cross_norm(x), source=source)
        return x + self.mlp(self.mlp_norm(x))


class QueryProjector(nn.Module):
    """See the module docstring."""

    def __init__(self, config: QueryProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.inlet = nn.Linear(config.in_width, config.width)
        self.encoder = nn.ModuleList(ProjectorBlock(config, cross=False) for _ in range(config.depth))
        self.encoder_norm = LayerNorm(config.width)
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.decoder = nn.ModuleList(ProjectorBlock(config, cross=True) for _ in range(config.depth))
        self.decoder_norm = LayerNorm(config.width)
        self.outlet = nn.Linear(config.width, config.out_width)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """Both `[B, n, D]` -> `[B, Q, E]`"""
        x = self.inlet(states + embeddings)
        for block in self.encoder:
            x = block(x)
        source = self.encoder_norm(x)
        x = self.queries.expand(x.shape[0], -1, -1)
        for block in self.decoder:
            x = block(x, source)
        return self.outlet(self.decoder_norm(x))


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


def _attention(source: str, target: str) -> list[Row]:
    rows = [
        split(f"{source}.in_proj_{leaf}", [f"{target}.{name}_proj.{leaf}" for name in "qkv"])
        for leaf in ("weight", "bias")
    ]
    return rows + _pair(f"{source}.out_proj", f"{target}.o_proj")


def official_keys() -> KeyTable:
    """GILL's and NExT-GPT's names (`fc`, `tfm`, `query_embs`, `model`) -> ours."""
    rows = _pair("fc", "inlet") + _pair("model", "outlet") + [rename("query_embs", "queries", Squeeze(0))]
    return KeyTable(tuple(rows)) + transformer_keys("tfm")


def transformer_keys(name: str) -> KeyTable:
    """torch's `nn.Transformer` of that name -> `encoder`, `encoder_norm`, `decoder`, `decoder_norm`."""
    rows: list[Row] = []
    for half in ("encoder", "decoder"):
        source, target = f"{name}.{half}.layers.{{}}", f"{half}.{{}}"
        rows += _attention(f"{source}.self_attn", f"{target}.attn") + _pair(f"{source}.norm1", f"{target}.attn_norm")
        last = "norm2"
        if half == "decoder":
            rows += _attention(f"{source}.multihead_attn", f"{target}.cross")
            rows += _pair(f"{source}.norm2", f"{target}.cross_norm")
            last = "norm3"
        rows += _pair(f"{source}.{last}", f"{target}.mlp_norm") + _pair(f"{source}.linear1", f"{target}.mlp.up_proj")
        rows += _pair(f"{source}.linear2", f"{target}.mlp.down_proj") + _pair(f"{name}.{half}.norm", f"{half}_norm")
    return KeyTable(tuple(rows))
