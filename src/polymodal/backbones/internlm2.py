"""InternLM2 (arXiv 2403.17297): LLaMA's blocks with grouped heads under names of its own.

Trap: the fused rows lie by key head: its query heads, then its key, then its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig, head_row
from polymodal.weights.keytable import KeyTable, drop, rename, split

DEFAULTS: dict[str, Any] = {
    "vocab_size": 103168,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bias": True,
}
"""What the published configuration class takes for absent keys."""


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that an InternLM2Config dict describes, at any size."""
    given = {**DEFAULTS, **config}
    return llama.parse_config({**given, "attention_bias": given["bias"], "mlp_bias": False, "head_dim": None})


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The published names of InternLM2ForCausalLM -> a Decoder of `config`; strict both ways."""
    attention = config.blocks[0].attention
    groups, rows = attention.key_heads, attention.size
    sizes = (attention.heads * rows, groups * rows, groups * rows)
    layer, block = "model.layers.{}", "blocks.{}"
    leaves = ("weight", "bias") if attention.qkv_bias else ("weight",)
    pairs = {"attention_norm": "attn_norm", "ffn_norm": "mlp_norm", "feed_forward.w1": "mlp.gate_proj",
             "feed_forward.w3": "mlp.up_proj", "feed_forward.w2": "mlp.down_proj"}  # fmt: skip
    qkv = [f"{block}.attn.{name}_proj" for name in "qkv"]
    return KeyTable(
        (
            rename("model.tok_embeddings.weight", "embed_tokens.weight"),
            *(
                split(f"{layer}.attention.wqkv.{leaf}", [f"{each}.{leaf}" for each in qkv], sizes=sizes, groups=groups)
                for leaf in leaves
            ),
            *(rename(f"{layer}.attention.wo.{leaf}", f"{block}.attn.o_proj.{leaf}") for leaf in leaves),
            *(rename(f"{layer}.{a}.weight", f"{block}.{b}.weight") for a, b in pairs.items()),
            drop(f"{layer}.attention.rotary_emb.inv_freq"),
            rename("model.norm.weight", "norm.weight"),
            head_row("output.weight", "model.tok_embeddings.weight", tied=config.tied),
        )
    )
