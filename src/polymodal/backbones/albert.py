"""ALBERT (arXiv 1909.11942): BERT with narrow embeddings and one block that runs several times.

    word + position + segment [B, T, 128] -> norm -> linear to the width -> the same post-norm block, depth times

Traps: the activation is the tanh approximation of GELU (gelu_new); eps 1e-12; dropout is 0 in the published v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.mask import MaskSpec, padding_mask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename


@dataclass(frozen=True, kw_only=True)
class AlbertConfig:
    """embedding_width: of the tables.  depth: how often the block runs."""

    vocab_size: int = 30_000
    embedding_width: int = 128
    width: int = 768
    depth: int = 12
    heads: int = 12
    ffn_width: int = 3072
    positions: int = 512
    segments: int = 2
    activation: str = "gelu_new"
    eps: float = 1e-12

    def build(self) -> Albert:
        return Albert(self)


class Albert(nn.Module):
    """`input_ids [B, T] -> hidden [B, T, D]`"""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.config = config
        inner, norm = config.embedding_width, LayerNormConfig(eps=config.eps)
        self.embed_tokens = nn.Embedding(config.vocab_size, inner)
        self.embed_positions = nn.Embedding(config.positions, inner)
        self.embed_segments = nn.Embedding(config.segments, inner)
        self.norm = norm.build(inner)
        self.proj = nn.Linear(inner, config.width)
        self.block = PostNormBlockConfig(
            attention=AttentionConfig(width=config.width, heads=config.heads, qkv_bias=True, out_bias=True),
            mlp=MLPConfig(width=config.width, ffn_width=config.ffn_width, activation=config.activation),
            norm=norm,
        ).build()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Raises ConfigError beyond the last position."""
        count = input_ids.shape[1]
        if count > self.config.positions:
            raise ConfigError(f"ALBERT: {count} tokens exceed its {self.config.positions} positions; shorten the text")
        kind = self.embed_segments.weight[0] if token_type_ids is None else self.embed_segments(token_type_ids)
        x = self.proj(self.norm(self.embed_tokens(input_ids) + kind + self.embed_positions.weight[:count]))
        mask = MaskSpec(causal=False, attention_mask=padding_mask(attention_mask)).prepare(count, count, x.device)
        for _ in range(self.config.depth):
            x = self.block(x, mask)
        return x


def parse_config(config: Mapping[str, Any]) -> AlbertConfig:
    """A config.json of transformers, at any size.  Raises ConfigError for several groups of blocks."""
    if config.get("num_hidden_groups", 1) != 1 or config.get("inner_group_num", 1) != 1:
        raise ConfigError("ALBERT: one group of one block is supported, as all published ones have")
    return AlbertConfig(
        vocab_size=config.get("vocab_size", 30_000),
        embedding_width=config.get("embedding_size", 128),
        width=config.get("hidden_size", 768),
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        ffn_width=config.get("intermediate_size", 3072),
        positions=config.get("max_position_embeddings", 512),
        segments=config.get("type_vocab_size", 2),
        activation=config.get("hidden_act", "gelu_new"),
        eps=config.get("layer_norm_eps", 1e-12),
    )


def _pairs(names: Mapping[str, str]) -> list[Row]:
    return [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in names.items() for leaf in ("weight", "bias")]


_LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
ALBERT_KEYS = KeyTable(
    (
        drop("embeddings.position_ids"),
        drop("pooler.**"),
        rename("embeddings.word_embeddings.weight", "embed_tokens.weight"),
        rename("embeddings.position_embeddings.weight", "embed_positions.weight"),
        rename("embeddings.token_type_embeddings.weight", "embed_segments.weight"),
        *_pairs(
            {
                "embeddings.LayerNorm": "norm",
                "encoder.embedding_hidden_mapping_in": "proj",
                f"{_LAYER}.attention.query": "block.attn.q_proj",
                f"{_LAYER}.attention.key": "block.attn.k_proj",
                f"{_LAYER}.attention.value": "block.attn.v_proj",
                f"{_LAYER}.attention.dense": "block.attn.o_proj",
                f"{_LAYER}.attention.LayerNorm": "block.attn_norm",
                f"{_LAYER}.ffn": "block.mlp.up_proj",
                f"{_LAYER}.ffn_output": "block.mlp.down_proj",
                f"{_LAYER}.full_layer_layer_norm": "block.mlp_norm",
            }
        ),
    )
)
"""`transformers` AlbertModel names -> ours, without the pooler."""
