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
from polymodal.backbones.llama import LlamaShape, gguf_keys, hf_keys, shape_of

__all__ = ["CONFIGS", "SHAPES", "config_of", "gguf_keys", "hf_keys"]

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


def config_of(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    theta, scaling = rope_of(config)
    shape = replace(shape_of(config), theta=theta, scaling=scaling, qkv_bias=True, out_bias=False)
    decoder = shape.config()
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    if window is None:
        return decoder
    first = config.get("max_window_layers", 28)
    narrow = replace(decoder.blocks[0], attention=replace(decoder.blocks[0].attention, window=window))
    return replace(decoder, blocks=tuple(b if i < first else narrow for i, b in enumerate(decoder.blocks)))
