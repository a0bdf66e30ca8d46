"""Qwen2 and Qwen2.5 decoders (arXiv 2407.10671, 2412.15115): LLaMA's shape with biases on q, k and v.

Traps: the vocabulary is padded and the padding differs (151936 in the small ones, 152064 from 7B on); the
configs carry a `sliding_window` that counts only when `use_sliding_window` is true, and then only from layer
`max_window_layers` on; GGUF keeps the hub's row order (`gguf_keys(config, interleaved=False)`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.hf_rope import rope_of
from polymodal.backbones.llama import LlamaShape, gguf_keys, hf_keys, shape_of, with_mlp
from polymodal.errors import ConfigError

__all__ = ["CONFIGS", "SHAPES", "gguf_keys", "hf_keys", "parse_config", "parse_vl_config"]

QWEN2_0_5B = LlamaShape(
    width=896,
    depth=24,
    heads=14,
    kv_heads=2,
    ffn_width=4864,
    vocab_size=151936,
    theta=1000000.0,
    eps=1e-6,
    max_length=32768,
    tied=True,
    qkv_bias=True,
)
QWEN2_1_5B = replace(QWEN2_0_5B, width=1536, depth=28, heads=12, ffn_width=8960)
QWEN2_7B = replace(
    QWEN2_0_5B, width=3584, depth=28, heads=28, kv_heads=4, ffn_width=18944, vocab_size=152064, tied=False
)
QWEN2_72B = replace(QWEN2_7B, width=8192, depth=80, heads=64, kv_heads=8, ffn_width=29568)
QWEN2_5_3B = replace(QWEN2_0_5B, width=2048, depth=36, heads=16, ffn_width=11008)

SHAPES: dict[str, LlamaShape] = {
    "qwen2-0.5b": QWEN2_0_5B,
    "qwen2-1.5b": QWEN2_1_5B,
    "qwen2-7b": QWEN2_7B,
    "qwen2-72b": QWEN2_72B,
    "qwen2.5-0.5b": QWEN2_0_5B,
    "qwen2.5-1.5b": QWEN2_1_5B,
    "qwen2.5-3b": QWEN2_5_3B,
    "qwen2.5-7b": QWEN2_7B,
}
"""Published sizes of the instruct models, whose norms use epsilon 1e-6 at every size."""

CONFIGS: dict[str, DecoderConfig] = {name: shape.config() for name, shape in SHAPES.items()}


HF_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
"""What the transformers library takes for keys that a `config.json` of Qwen2 leaves out."""

VL_DEFAULTS: dict[str, Any] = {
    **HF_DEFAULTS,
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
}
"""The same for the language half of Qwen2-VL."""


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    config = {**HF_DEFAULTS, **config}
    shape = replace(shape_of({**config, "attention_bias": False}), qkv_bias=True)
    decoder = with_mlp(shape.config(), {**config, "mlp_bias": False})
    window = config["sliding_window"] if config.get("use_sliding_window") else None
    if window is None:
        return decoder
    first, depth = config["max_window_layers"], decoder.depth
    kinds = config.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * (depth - first)
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"qwen2: layer_types {sorted(unknown)} are not supported; expected full or sliding_attention")
    narrow = replace(decoder.blocks[0], attention=replace(decoder.blocks[0].attention, window=window))
    chosen = zip(kinds[:depth], decoder.blocks, strict=True)
    return replace(decoder, blocks=tuple(narrow if kind == "sliding_attention" else block for kind, block in chosen))


def parse_vl_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The language half of Qwen2-VL: Qwen2 whose rope reads three axes of positions (`mrope_section`)."""
    config = {**VL_DEFAULTS, **config}
    settings = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta, scaling = rope_of(config, theta=1000000.0)
    decoder = parse_config({**config, "head_dim": None})
    assert decoder.rope is not None
    sections = tuple(settings.get("mrope_section") or (16, 24, 24))
    if len(sections) != 3:
        raise ConfigError(f"qwen2-vl: mrope_section must name three axes, found {list(sections)}")
    return replace(decoder, rope=replace(decoder.rope, theta=theta, scaling=scaling, sections=sections))
