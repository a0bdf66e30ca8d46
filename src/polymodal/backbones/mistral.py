"""Mistral decoders (arXiv 2310.06825): LLaMA's shape with grouped heads and, in v0.1, a sliding window.

Traps: v0.2 dropped the window and raised theta to 1e6; Nemo's heads are 128 wide although width / heads is 160;
GGUF files are of architecture "llama", with interleaved q and k rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.llama import HF_DEFAULTS as LLAMA_DEFAULTS
from polymodal.backbones.llama import LlamaShape, gguf_keys, hf_keys, shape_of, with_mlp

__all__ = ["CONFIGS", "SHAPES", "gguf_keys", "hf_keys", "parse_config"]

MISTRAL_7B_V0_1 = LlamaShape(width=4096, depth=32, heads=32, kv_heads=8, ffn_width=14336, max_length=32768, window=4096)
MISTRAL_7B_V0_2 = replace(MISTRAL_7B_V0_1, theta=1000000.0, window=None)
MISTRAL_7B_V0_3 = replace(MISTRAL_7B_V0_2, vocab_size=32768)
MISTRAL_NEMO_12B = replace(MISTRAL_7B_V0_2, width=5120, depth=40, head_dim=128, vocab_size=131072, max_length=131072)

SHAPES: dict[str, LlamaShape] = {
    "mistral-7b-v0.1": MISTRAL_7B_V0_1,
    "mistral-7b-v0.2": MISTRAL_7B_V0_2,
    "mistral-7b-v0.3": MISTRAL_7B_V0_3,
    "mistral-nemo-12b": MISTRAL_NEMO_12B,
}

CONFIGS: dict[str, DecoderConfig] = {name: shape.config() for name, shape in SHAPES.items()}


HF_DEFAULTS: dict[str, Any] = {
    **LLAMA_DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
"""What the transformers library takes for absent keys; a window of null is none."""


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    config = {**HF_DEFAULTS, **config}
    shape = shape_of({**config, "attention_bias": False})
    return with_mlp(replace(shape, window=config["sliding_window"]).config(), {**config, "mlp_bias": False})
