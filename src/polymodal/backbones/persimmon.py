"""Persimmon decoders (Adept, 2023; no paper): the language half of Fuyu-8B.

    LayerNorm -> attention: q and k normed per head, half of each head rotated -> LayerNorm -> squared-ReLU MLP

Biases everywhere but in the head.
Traps: the fused `query_key_value` is sorted by head, (q, k, v) within each; q and k are normed BEFORE they are
rotated; Fuyu's theta is 25000 and stands in its config, the library's default for an absent one is 10000.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, head_row
from polymodal.backbones.hf_rope import rope_of
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import RopeConfig
from polymodal.weights.keytable import KeyTable, drop, rename, split

_LAYER = "model.layers.{}"
_PAIRS = (
    (f"{_LAYER}.input_layernorm", "blocks.{}.attn_norm"),
    (f"{_LAYER}.self_attn.q_layernorm", "blocks.{}.attn.q_norm"),
    (f"{_LAYER}.self_attn.k_layernorm", "blocks.{}.attn.k_norm"),
    (f"{_LAYER}.self_attn.dense", "blocks.{}.attn.o_proj"),
    (f"{_LAYER}.post_attention_layernorm", "blocks.{}.mlp_norm"),
    (f"{_LAYER}.mlp.dense_h_to_4h", "blocks.{}.mlp.up_proj"),
    (f"{_LAYER}.mlp.dense_4h_to_h", "blocks.{}.mlp.down_proj"),
    ("model.final_layernorm", "norm"),
)


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a published `config.json` of this family describes, with the library's defaults."""
    width, heads = config.get("hidden_size", 4096), config.get("num_attention_heads", 64)
    if width % heads:
        raise ConfigError(f"persimmon: hidden_size {width} must be a multiple of num_attention_heads {heads}")
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-5))
    per_head = norm if config.get("qk_layernorm", True) else None
    attention = AttentionConfig(
        width=width, heads=heads, qkv_bias=True, out_bias=True, q_norm=per_head, k_norm=per_head
    )
    mlp = MLPConfig(
        width=width, ffn_width=config.get("intermediate_size", 16384), activation=config.get("hidden_act", "relu2")
    )
    theta, scaling = rope_of({"max_position_embeddings": 16384, **config})
    settings = {**config, **(config.get("rope_parameters") or {})}
    rotary = int(attention.size * settings.get("partial_rotary_factor", 0.5))
    return DecoderConfig(
        vocab_size=config.get("vocab_size", 262144),
        width=width,
        blocks=(DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm),) * config.get("num_hidden_layers", 36),
        norm=norm,
        rope=RopeConfig(head_dim=attention.size, theta=theta, scaling=scaling, rotary_dim=rotary),
        tied=bool(config.get("tie_word_embeddings", False)),
        max_length=config.get("max_position_embeddings", 16384),
    )


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout -> a Decoder of `config`; strict both ways."""
    heads = config.blocks[0].attention.heads
    rows = [rename(f"{source}.{leaf}", f"{target}.{leaf}") for source, target in _PAIRS for leaf in ("weight", "bias")]
    for leaf in ("weight", "bias"):
        targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
        rows.append(split(f"{_LAYER}.self_attn.query_key_value.{leaf}", targets, groups=heads))
    head = head_row("lm_head.weight", "model.embed_tokens.weight", tied=config.tied)
    angles = drop(f"{_LAYER}.self_attn.rotary_emb.inv_freq")  # in files of the first releases
    return KeyTable((rename("model.embed_tokens.weight", "embed_tokens.weight"), *rows, head, angles))
