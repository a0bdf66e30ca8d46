"""The first Qwen (arXiv 2309.16609), the decoder under Qwen-VL and Qwen-Audio: config and names of QWenLMHeadModel.

LLaMA's blocks with biases on q, k and v, and two rules beyond the trained length (`seq_length`): theta grows in steps
(`StepNTKScaling`), and queries are multiplied by the logarithm of their place.

Traps: `intermediate_size` counts gate and value, each is half of it; the gate is `w2`, what it multiplies is `w1`.
Published code counts places by columns, padding included, and scales a batch by its longest row; here every row is as
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones.decoder import DecoderConfig, head_row
from polymodal.backbones.llama import LlamaShape, with_mlp
from polymodal.errors import ConfigError
from polymodal.nn.rope import StepNTKScaling
from polymodal.weights.keytable import KeyTable, drop, rename, split

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 2048,
    "max_position_embeddings": 8192,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "no_bias": True,
}
"""What the published configuration class takes for absent keys; `seq_length`, for which it has none, as released."""


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a QWenConfig dict describes, at any size; raises ConfigError for what cannot be."""
    given = {**DEFAULTS, **config}
    width, heads, size = given["hidden_size"], given["num_attention_heads"], given["kv_channels"]
    if heads * size != width:
        raise ConfigError(f"qwen: kv_channels {size} times num_attention_heads {heads} must be hidden_size {width}")
    bias, trained = not given["no_bias"], given["seq_length"]
    shape = LlamaShape(
        width=width, depth=given["num_hidden_layers"], heads=heads, ffn_width=given["intermediate_size"] // 2,
        vocab_size=given["vocab_size"], theta=float(given["rotary_emb_base"]), eps=given["layer_norm_epsilon"],
        max_length=given["max_position_embeddings"], tied=bool(given.get("tie_word_embeddings")), qkv_bias=True,
        out_bias=bias, scaling=StepNTKScaling(trained_length=trained) if given["use_dynamic_ntk"] else None,
    )  # fmt: skip
    decoder = with_mlp(shape.config(), {"mlp_bias": bias})
    assert decoder.rope is not None
    rotary = None if given["rotary_pct"] == 1.0 else int(size * given["rotary_pct"])
    return replace(decoder, rope=replace(decoder.rope, rotary_dim=rotary),
                   log_scaled_from=trained if given["use_logn_attn"] else None)  # fmt: skip


def published_keys(config: DecoderConfig) -> KeyTable:
    """The published names of QWenLMHeadModel -> a Decoder of `config`; strict both ways."""
    layer, block = "transformer.h.{}", "blocks.{}"
    biases = ("weight", "bias") if config.blocks[0].attention.out_bias else ("weight",)
    pairs = (("attn.c_proj", "attn.o_proj"), ("mlp.w2", "mlp.gate_proj"), ("mlp.w1", "mlp.up_proj"),
             ("mlp.c_proj", "mlp.down_proj"))  # fmt: skip
    return KeyTable(
        (
            rename("transformer.wte.weight", "embed_tokens.weight"),
            rename(f"{layer}.ln_1.weight", f"{block}.attn_norm.weight"),
            *(
                split(f"{layer}.attn.c_attn.{leaf}", [f"{block}.attn.{name}_proj.{leaf}" for name in "qkv"])
                for leaf in ("weight", "bias")
            ),
            rename(f"{layer}.ln_2.weight", f"{block}.mlp_norm.weight"),
            *(rename(f"{layer}.{a}.{leaf}", f"{block}.{b}.{leaf}") for a, b in pairs for leaf in biases),
            drop(f"{layer}.attn.masked_bias"),
            drop("transformer.rotary_emb.inv_freq"),
            rename("transformer.ln_f.weight", "norm.weight"),
            head_row("lm_head.weight", "transformer.wte.weight", tied=config.tied),
        )
    )
