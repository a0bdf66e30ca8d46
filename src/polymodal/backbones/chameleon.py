"""Chameleon's decoder (arXiv 2405.09818): a LLaMA whose queries and keys are normed per head, for stable logits.

    blocks of  RMSNorm -> attention, q and k through layer norms of one head's size, rope -> RMSNorm -> SwiGLU
    34B ("swin"):  x + norm(attention(x)),  x + norm(mlp(x))

Traps: the norms are LAYER norms with weights and biases of their own for every head (the shards of the training run,
repeated); their epsilon is 1e-5 whatever the config says of the others.  The official file has them once per shard, in
the order of rope on neighbouring pairs, like the rows of q and k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.errors import ConfigError
from polymodal.nn.norm import HeadLayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import Unsqueeze, to_half_split

DEFAULTS = {"vocab_size": 65536, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}


def parse_config(config: Mapping[str, Any], shared: bool = False) -> DecoderConfig:
    """A ChameleonConfig dict -> the decoder.  shared: all heads have one norm, as in the official file of the 7B."""
    plain = llama.parse_config({**DEFAULTS, **config, "head_dim": None})
    block = plain.blocks[0]
    heads = block.attention.heads, block.attention.key_heads
    queries, keys = (HeadLayerNormConfig(heads=n, groups=1 if shared else n) for n in heads)
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


def official_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official consolidated.pth (one shard) by its tensors; None for another's."""
    first = "layers.0."
    if "tok_embeddings.weight" not in shapes or f"{first}attention.q_normalization.weight" not in shapes:
        return None
    size = shapes[f"{first}attention.q_normalization.weight"][0]
    if f"{first}attention.wqkv.weight" in shapes:
        raise ConfigError("chameleon: a file with wqkv is not supported; expected wq, wk and wv as published")
    heads, keys = (shapes[f"{first}attention.w{x}.weight"][0] // size for x in "qk")
    vocab, width = shapes["tok_embeddings.weight"]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
    return {"model_type": "chameleon_official", "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": heads, "num_key_value_heads": keys,
            "intermediate_size": shapes[f"{first}feed_forward.w1.weight"][0]}  # fmt: skip


def official_keys(config: DecoderConfig) -> KeyTable:
    """The official file (one shard) -> a Decoder of `config` with shared norms; strict both ways."""
    attention, layer = config.blocks[0].attention, "layers.{}"
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    rows: list[Row] = [drop("rope.freqs"), rename("tok_embeddings.weight", "embed_tokens.weight")]
    for x, heads in (("q", attention.heads), ("k", attention.key_heads)):
        source, target = f"{layer}.attention", f"blocks.{{}}.attn.{x}"
        rows.append(rename(f"{source}.w{x}.weight", f"{target}_proj.weight", to_half_split(heads)))
        rows += [rename(f"{source}.{x}_normalization.{leaf}", f"{target}_norm.{leaf}", to_half_split(1), Unsqueeze(0))
                 for leaf in ("weight", "bias")]  # fmt: skip
    rows += [rename(f"{layer}.attention.w{x}.weight", f"blocks.{{}}.attn.{x}_proj.weight") for x in "vo"]
    rows += [rename(f"{layer}.feed_forward.{a}.weight", f"blocks.{{}}.mlp.{b}.weight") for a, b in names.items()]
    rows += [rename(f"{layer}.attention_norm.weight", "blocks.{}.attn_norm.weight"),
             rename(f"{layer}.ffn_norm.weight", "blocks.{}.mlp_norm.weight"), rename("norm.weight", "norm.weight"),
             rename("output.weight", "lm_head.weight")]  # fmt: skip
    return KeyTable(tuple(rows))
