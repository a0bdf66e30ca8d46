"""Chameleon's decoder (arXiv 2405.09818): a LLaMA whose queries and keys are normed per head, for stable logits.

    blocks of  RMSNorm -> attention, q and k through layer norms of one head's size, rope -> RMSNorm -> SwiGLU
    34B ("swin"):  x + norm(attention(x)),  x + norm(mlp(x))

Traps: the norms are LAYER norms with weights and biases of their own for every head (the shards of the training run,
repeated); their epsilon is 1e-5 whatever the config says of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.nn.norm import HeadLayerNormConfig
from polymodal.weights.keytable import KeyTable, rename

DEFAULTS = {"vocab_size": 65536, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}


def of_config(config: Mapping[str, Any]) -> DecoderConfig:
    """A ChameleonConfig dict -> the decoder."""
    plain = llama.config_of({**DEFAULTS, **config, "head_dim": None})
    block = plain.blocks[0]
    queries, keys = (HeadLayerNormConfig(heads=n, groups=n) for n in (block.attention.heads, block.attention.key_heads))
    attention = replace(block.attention, q_norm=queries, k_norm=keys)
    block = replace(block, attention=attention, order="swin" if config.get("swin_norm") else "pre")
    return replace(plain, blocks=(block,) * plain.depth)


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's names (`model.layers...`, `lm_head`) -> a Decoder of `config`; strict both ways."""
    norms = [
        rename(f"model.layers.{{}}.self_attn.{norm}.{leaf}", f"blocks.{{}}.attn.{norm}.{leaf}")
        for norm in ("q_norm", "k_norm")
        for leaf in ("weight", "bias")
    ]
    return llama.hf_keys(config) + KeyTable(tuple(norms))
