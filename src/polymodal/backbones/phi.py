"""Phi decoders (Phi-1.5, arXiv 2309.05463; Phi-2): one norm in front of attention and MLP, which run side by side.

    n = norm(x);  x + attn(n) + mlp(n)      rope on the first part of each head, biases everywhere, a head with a bias

Traps: Phi-2 rotates 0.4 of each head; norms of q and k (`qk_layernorm`) are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.backbones.hf_rope import rope_of
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.nn.rope import RopeConfig
from polymodal.weights.keytable import KeyTable


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a `config.json` of model_type phi describes, at any size.  Raises ConfigError."""
    for option in ("qk_layernorm", "tie_word_embeddings"):
        if config.get(option):
            raise ConfigError(f"phi: {option} is not supported; expected false")
    width, heads = config.get("hidden_size", 2048), config.get("num_attention_heads", 32)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-5))
    keys = config.get("num_key_value_heads") or heads
    attention = AttentionConfig(width=width, heads=heads, kv_heads=keys, qkv_bias=True, out_bias=True)
    mlp = MLPConfig(width=width, ffn_width=config.get("intermediate_size", 8192),
                    activation=config.get("hidden_act", "gelu_new"))  # fmt: skip
    theta, scaling = rope_of(config)
    settings = config.get("rope_parameters") or {}
    part = settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
    block = DecoderBlockConfig(attention=attention, mlp=mlp, norm=norm, order="shared")
    return DecoderConfig(
        vocab_size=config.get("vocab_size", 51200),
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 24),
        norm=norm,
        rope=RopeConfig(head_dim=attention.size, theta=theta, scaling=scaling, rotary_dim=int(attention.size * part)),
        head_bias=True,
        max_length=config.get("max_position_embeddings", 2048),
    )


_L, _B = "model.layers.{}", "blocks.{}"
_LAYERS = {"self_attn.q_proj": "attn.q_proj", "self_attn.k_proj": "attn.k_proj", "self_attn.v_proj": "attn.v_proj",
           "self_attn.dense": "attn.o_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj",
           "input_layernorm": "attn_norm"}  # fmt: skip
HF_NAMES: dict[str, str | None] = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    f"{_L}.self_attn.rotary_emb.inv_freq": None,
} | {
    f"{theirs}.{leaf}": f"{ours}.{leaf}"
    for theirs, ours in {
        "model.final_layernorm": "norm",
        "lm_head": "lm_head",
        **{f"{_L}.{theirs}": f"{_B}.{ours}" for theirs, ours in _LAYERS.items()},
    }.items()
    for leaf in ("weight", "bias")
}
"""The hub's names -> ours."""


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout (PhiForCausalLM) -> a Decoder of `config`; strict both ways."""
    return KeyTable.of(HF_NAMES)
