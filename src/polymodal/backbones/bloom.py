"""BLOOM decoders: sizes and key table (arXiv 2211.05100); the first TigerBot models.

    tokens -> LayerNorm -> blocks of LayerNorm -> attention with ALiBi -> LayerNorm -> GELU MLP of four times the
    width, all linears with bias -> LayerNorm -> head, tied to the embedding

Traps: q, k and v are one matrix with rows ordered [head, q k v, dim]; ALiBi counts the real tokens of a padded row;
old configs say `n_embed` and `num_attention_heads`, old files leave out the prefix `transformer.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from polymodal.backbones.decoder import Decoder, DecoderBlockConfig, DecoderConfig, head_row
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slopes of ALiBi (arXiv 2108.12409) for any number of heads: those of the power of two below, then every other
    one of the next."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return (*slopes, *(2.0 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)))


@dataclass(frozen=True, kw_only=True)
class BloomShape:
    """The numbers in which models of this family differ.

    normed_residual: the residual is what the norm gives.  unbiased: the two linears that write to the residual go
    without bias; transformers does so with `slow_but_exact` and `pretraining_tp` above 1, though the files have them.
    """

    width: int
    depth: int
    heads: int
    vocab_size: int = 250880
    eps: float = 1e-5
    max_length: int = 2048
    tied: bool = True
    normed_residual: bool = False
    unbiased: bool = False

    def config(self) -> DecoderConfig:
        norm = LayerNormConfig(eps=self.eps)
        out = LinearConfig(bias=not self.unbiased)
        block = DecoderBlockConfig(
            attention=AttentionConfig(
                width=self.width, heads=self.heads, qkv_bias=True, out_bias=True, linears=AttentionLinears(o=out)
            ),
            mlp=MLPConfig(width=self.width, ffn_width=4 * self.width, activation="gelu_tanh", down=out),
            norm=norm,
            order="residual" if self.normed_residual else "pre",
        )
        return DecoderConfig(
            vocab_size=self.vocab_size,
            width=self.width,
            blocks=(block,) * self.depth,
            norm=norm,
            alibi=alibi_slopes(self.heads),
            embed_norm=norm,
            tied=self.tied,
            max_length=self.max_length,
        )


BLOOM_560M = BloomShape(width=1024, depth=24, heads=16)
BLOOM_1B1 = BloomShape(width=1536, depth=24, heads=16)
BLOOM_1B7 = BloomShape(width=2048, depth=24, heads=16)
BLOOM_3B = BloomShape(width=2560, depth=30, heads=32)
BLOOM_7B1 = BloomShape(width=4096, depth=30, heads=32)
BLOOM_176B = replace(BLOOM_7B1, width=14336, depth=70, heads=112)


def shape_of(config: Mapping[str, Any]) -> BloomShape:
    """The shape a published `config.json` of this family describes, at any size."""

    def first(*names: str, default: int) -> int:
        return next((config[name] for name in names if config.get(name) is not None), default)

    return BloomShape(
        width=first("n_embed", "hidden_size", default=64),
        depth=first("n_layer", "num_hidden_layers", default=2),
        heads=first("n_head", "num_attention_heads", default=8),
        vocab_size=config.get("vocab_size", 250880),
        eps=config.get("layer_norm_epsilon", 1e-5),
        max_length=config.get("seq_length", 2048),
        tied=bool(config.get("tie_word_embeddings", True)),
        normed_residual=bool(config.get("apply_residual_connection_post_layernorm")),
        unbiased=bool(config.get("slow_but_exact")) and config.get("pretraining_tp", 1) > 1,
    )


class NormedWords(Decoder):
    """A BLOOM decoder that norms the embeddings of words alone: features enter it as they are (mPLUG-Owl)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(replace(config, embed_norm=None))
        assert config.embed_norm is not None
        self.word_norm = config.embed_norm.build(config.width)

    def embed(self, input_ids: Tensor) -> Tensor:
        """``input_ids [B, T]`` int64 -> ``[B, T, D]``, normed."""
        embeds: Tensor = self.word_norm(super().embed(input_ids))
        return embeds


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    return shape_of(config).config()


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


def hf_keys(config: DecoderConfig, prefix: str = "transformer.") -> KeyTable:
    """The hub's layout -> a Decoder of `config`; strict both ways.  prefix: "" for files of the bare model."""
    attention, layer = config.blocks[0].attention, f"{prefix}h.{{}}"
    unbiased = attention.linears.o == LinearConfig(bias=False)
    qkv = [
        split(
            f"{layer}.self_attention.query_key_value.{leaf}",
            [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"],
            groups=attention.heads,
        )
        for leaf in ("weight", "bias")
    ]
    gone = [f"{layer}.self_attention.dense.bias", f"{layer}.mlp.dense_4h_to_h.bias"] if unbiased else []
    return KeyTable(
        (
            *(drop(name) for name in gone),
            rename(f"{prefix}word_embeddings.weight", "embed_tokens.weight"),
            *_pair(f"{prefix}word_embeddings_layernorm", "embed_norm"),
            *_pair(f"{layer}.input_layernorm", "blocks.{}.attn_norm"),
            *qkv,
            *_pair(f"{layer}.self_attention.dense", "blocks.{}.attn.o_proj"),
            *_pair(f"{layer}.post_attention_layernorm", "blocks.{}.mlp_norm"),
            *_pair(f"{layer}.mlp.dense_h_to_4h", "blocks.{}.mlp.up_proj"),
            *_pair(f"{layer}.mlp.dense_4h_to_h", "blocks.{}.mlp.down_proj"),
            *_pair(f"{prefix}ln_f", "norm"),
            head_row("lm_head.weight", f"{prefix}word_embeddings.weight", tied=config.tied),
        )
    )


def normed_words(table: KeyTable) -> KeyTable:
    """A table of `hf_keys` for a NormedWords."""
    rows = (
        replace(row, targets=tuple(name.replace("embed_norm.", "word_norm.") for name in row.targets))
        for row in table.rows
    )
    return replace(table, rows=tuple(rows))
