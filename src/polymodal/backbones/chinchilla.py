"""Chinchilla-shaped decoders, the frozen language models of Flamingo; no weights were ever released.

Papers: Chinchilla (arXiv 2203.15556), Gopher (arXiv 2112.11446).

    blocks of  RMSNorm -> attention, heads of 128 -> RMSNorm -> GELU MLP of four times the width;  no biases, head tied

Trap: Gopher and Chinchilla give positions as Transformer-XL does (a learned product with relative sinusoids, one more
square matrix a layer); here they are rotary, so a model of these sizes has about a thirteenth less parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, head_row
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.rope import RopeConfig
from polymodal.weights.keytable import KeyTable

DEFAULTS = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "head_dim": 128,
            "vocab_size": 32000, "max_position_embeddings": 2048}  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder of these numbers; absent ones are those of 1.4B.  Raises ConfigError for other options."""
    if unknown := set(config) - {*DEFAULTS, "model_type"}:
        raise ConfigError(f"chinchilla: {sorted(unknown)} is not supported; it takes {', '.join(DEFAULTS)}")
    given = {**DEFAULTS, **config}
    width, size = given["hidden_size"], given["head_dim"]
    attention = AttentionConfig(width=width, heads=given["num_attention_heads"], head_dim=size)
    mlp = MLPConfig(width=width, ffn_width=4 * width, activation="gelu", bias=False)
    block = DecoderBlockConfig(attention=attention, mlp=mlp, norm=RMSNormConfig())
    return DecoderConfig(
        vocab_size=given["vocab_size"],
        width=width,
        blocks=(block,) * given["num_hidden_layers"],
        norm=RMSNormConfig(),
        rope=RopeConfig(head_dim=size),
        tied=True,
        max_length=given["max_position_embeddings"],
    )


_PARTS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm", "mlp.up_proj": "mlp.up_proj",
          "mlp.down_proj": "mlp.down_proj"} | {f"self_attn.{x}_proj": f"attn.{x}_proj" for x in "qkvo"}  # fmt: skip


def keys(layer: str = "model.layers.{}") -> KeyTable:
    """Names as a LLaMA of the hub would have them -> ours; `layer`: where a block lies."""
    names = {f"{layer}.{theirs}.weight": f"blocks.{{}}.{ours}.weight" for theirs, ours in _PARTS.items()}
    ends = {"model.embed_tokens.weight": "embed_tokens.weight", "model.norm.weight": "norm.weight"}
    return KeyTable.of({**ends, **names}, head_row("lm_head.weight", "model.embed_tokens.weight", tied=True))
