"""Gemma 1 decoders (arXiv 2403.08295): the language half of PaliGemma.

    embeddings x sqrt(width) -> blocks of (1 + w) RMSNorm, attention with 256-wide heads, tanh-GELU gate -> tied head

Traps: norms scale by 1 + weight (GGUF stores the sum, the hub the weight); heads x 256 is not the width at 7B;
the factor sqrt(width) is rounded to the weights' dtype; PaliGemma divides its image features by the same factor
because the published code multiplies spliced features too, here `embed` alone scales.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.backbones.hf_rope import rope_of
from polymodal.backbones.llama import gguf_keys as llama_gguf_keys
from polymodal.backbones.llama import hf_keys, with_mlp
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import OffsetRMSNormConfig
from polymodal.nn.rope import RopeConfig
from polymodal.weights.keytable import KeyTable, Row
from polymodal.weights.operations import Shift

__all__ = ["CONFIGS", "gemma", "gguf_keys", "hf_keys", "parse_config"]


def gemma(
    *, attention: AttentionConfig, depth: int, ffn_width: int, vocab_size: int = 256000, eps: float = 1e-6
) -> DecoderConfig:
    """Gemma at any size, every block alike; `attention` carries width, heads and head_dim."""
    norm = OffsetRMSNormConfig(eps=eps)
    mlp = GatedMLPConfig(width=attention.width, ffn_width=ffn_width, activation="gelu_tanh")
    return DecoderConfig(
        vocab_size=vocab_size,
        width=attention.width,
        blocks=(DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm),) * depth,
        norm=norm,
        rope=RopeConfig(head_dim=attention.size),
        tied=True,
        embed_scale=sqrt(attention.width),
        max_length=8192,
    )


GEMMA_2B = gemma(attention=AttentionConfig(width=2048, heads=8, kv_heads=1, head_dim=256), depth=18, ffn_width=16384)
GEMMA_7B = gemma(attention=AttentionConfig(width=3072, heads=16, kv_heads=16, head_dim=256), depth=28, ffn_width=24576)
CONFIGS: dict[str, DecoderConfig] = {
    "gemma-2b": GEMMA_2B,
    "gemma-7b": GEMMA_7B,
    "paligemma-gemma-2b": replace(GEMMA_2B, vocab_size=257216),
}
"""Published sizes; PaliGemma's vocabulary is extended by location and segmentation tokens."""


HF_DEFAULTS: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
"""What the transformers library takes for keys that a `config.json` of this family leaves out."""


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size; "gelu" means its tanh form."""
    config = {**HF_DEFAULTS, **config}
    if config.get("use_bidirectional_attention"):
        raise ConfigError("gemma: use_bidirectional_attention is not supported; expected false or nothing")
    bias = bool(config.get("attention_bias"))
    attention = AttentionConfig(
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        qkv_bias=bias,
        out_bias=bias,
    )
    theta, scaling = rope_of(config)
    decoder = gemma(
        attention=attention,
        depth=config["num_hidden_layers"],
        ffn_width=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        eps=config["rms_norm_eps"],
    )
    activation = config["hidden_act"]
    decoder = with_mlp(decoder, {"hidden_act": "gelu_tanh" if activation == "gelu" else activation})
    return replace(
        decoder,
        rope=RopeConfig(head_dim=attention.size, theta=theta, scaling=scaling),
        max_length=config["max_position_embeddings"],
        tied=bool(config["tie_word_embeddings"]),
    )


def gguf_keys(config: DecoderConfig) -> KeyTable:
    """GGUF layout -> a Decoder of `config`; its norm weights hold 1 + w and are lowered by one."""
    table = llama_gguf_keys(config, interleaved=False)
    return replace(table, rows=tuple(_lowered(row) for row in table.rows))


def _lowered(row: Row) -> Row:
    norms = [name for name in row.targets if name.endswith("norm.weight")]
    return replace(row, before=((Shift(-1.0),),)) if norms else row
