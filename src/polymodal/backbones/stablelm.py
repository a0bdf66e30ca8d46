"""StableLM decoders (StableLM 2, arXiv 2402.17834): LLaMA's blocks with layer norms and a rotated part of each head.

    blocks of  LayerNorm -> attention with rope on the first quarter -> LayerNorm -> SwiGLU;  biases on q, k, v

Traps: the configs of the first releases (`stablelm_epoch`) say `rope_pct` and `norm_eps`, and have biases on q, k, v by
default, which the library's have not; parallel residuals and norms of q and k (StableLM 2 12B) are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig, head_row
from polymodal.errors import ConfigError
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

HF_DEFAULTS = {"vocab_size": 50304, "intermediate_size": 6912, "hidden_size": 2560, "num_hidden_layers": 32,
               "num_attention_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}  # fmt: skip
"""What the transformers library takes for absent keys."""


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size.  Raises ConfigError."""
    for option in ("use_parallel_residual", "qk_layernorm"):
        if config.get(option):
            raise ConfigError(f"stablelm: {option} is not supported; expected false")
    shape = llama.shape_of({**HF_DEFAULTS, **config, "attention_bias": False})
    shape = replace(shape, qkv_bias=bool(config.get("use_qkv_bias", False)))
    decoder = llama.with_mlp(shape.config(), {**config, "mlp_bias": False})
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", config.get("norm_eps", 1e-5)))
    settings = config.get("rope_parameters") or {}
    part = settings.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rope_pct", 0.25)))
    assert decoder.rope is not None
    return replace(
        decoder,
        norm=norm,
        blocks=tuple(replace(block, norm=norm) for block in decoder.blocks),
        rope=replace(decoder.rope, rotary_dim=int(decoder.rope.head_dim * part)),
    )


HF_NAMES: dict[str, str | None] = llama.HF_NAMES | {
    "model.layers.{}.input_layernorm.bias": "blocks.{}.attn_norm.bias",
    "model.layers.{}.post_attention_layernorm.bias": "blocks.{}.mlp_norm.bias",
    "model.norm.bias": "norm.bias",
}
"""The hub's names -> ours, without the head."""


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout (StableLmForCausalLM) -> a Decoder of `config`; strict both ways."""
    return KeyTable.of(HF_NAMES, head_row("lm_head.weight", "model.embed_tokens.weight", tied=config.tied))
