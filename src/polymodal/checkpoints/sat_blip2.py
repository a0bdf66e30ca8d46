"""BLIP-2's encoder and Q-Former as SwissArmyTransformer keeps them, in VisualGLM's files (sat and hub alike).

    vit.transformer.* vit.mixins.{patch_embedding,cls}.*   qformer.transformer.*   glm_proj.*

The configs are its model arguments: `eva_config` and `qformer_config` (num_layers, inner_hidden_size, is_decoder, ...).
Traps: sat's post-norm blocks norm what ENTERS them, so a norm of the last block is called final and BERT's norm of the
embeddings is that of the first block; keys have biases; q, k and v lie behind one another, not by heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.connectors.qformer import QFormerConfig
from polymodal.encoders import eva_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze

_LAYER = "transformer.layers.{}"


def parse_vision(config: Mapping[str, Any]) -> ViTConfig:
    """EVA ViT-g of an `eva_config`; the defaults are the published numbers.  ConfigError for a picture not square."""
    sides = config.get("image_size", [224, 224])
    if sides[0] != sides[1]:
        raise ConfigError(f"eva_config.image_size: expected a square, found {sides}")
    words = {"num_hidden_layers": "num_layers", "intermediate_size": "inner_hidden_size",
             "layer_norm_eps": "layernorm_epsilon"}  # fmt: skip
    words |= {name: name for name in ("hidden_size", "num_attention_heads", "patch_size")}
    found = {ours: config[theirs] for ours, theirs in words.items() if theirs in config}
    encoder = eva_vit.parse_config({**found, "image_size": sides[0]})
    return replace(encoder, final_norm=LayerNormConfig(eps=1e-5))


def parse_qformer(config: Mapping[str, Any], source_width: int) -> QFormerConfig:
    """The Q-Former of a `qformer_config`.  ConfigError unless every n-th block from the first has cross-attention."""
    depth = config.get("num_layers", 12)
    crossed = config.get("is_decoder", [index % 2 == 0 for index in range(depth)])
    crossed = [crossed] * depth if isinstance(crossed, bool) else list(crossed)
    every = crossed.index(True, 1) if True in crossed[1:] else max(2, depth)
    if crossed != [index % every == 0 for index in range(depth)]:
        raise ConfigError(f"qformer_config.is_decoder: expected every n-th block from the first, found {crossed}")
    return QFormerConfig(
        width=config.get("hidden_size", 768), depth=depth, heads=config.get("num_attention_heads", 12),
        ffn_width=config.get("inner_hidden_size", 3072), source_width=source_width,
        queries=config.get("vocab_size", 32), cross_every=every, eps=config.get("layernorm_epsilon", 1e-12),
    )  # fmt: skip


def vision_keys() -> KeyTable:
    """Names below `vit.` -> a ViT."""
    rows: list[Row] = [
        rename("transformer.word_embeddings.weight", "class_token", Squeeze()),
        rename("transformer.position_embeddings.weight", "positions"),
    ]
    names = {
        "mixins.patch_embedding.proj": "patch_embed", "mixins.cls.ln_vision": "final_norm",
        f"{_LAYER}.input_layernorm": "blocks.{}.attn_norm", f"{_LAYER}.post_attention_layernorm": "blocks.{}.mlp_norm",
        f"{_LAYER}.attention.dense": "blocks.{}.attn.o_proj", f"{_LAYER}.mlp.dense_h_to_4h": "blocks.{}.mlp.up_proj",
        f"{_LAYER}.mlp.dense_4h_to_h": "blocks.{}.mlp.down_proj",
    }  # fmt: skip
    rows += _pairs(names) + _parts("attention.query_key_value", "blocks.{}.attn", "qkv")
    return KeyTable(tuple(rows))


def qformer_keys(config: QFormerConfig) -> KeyTable:
    """Names below `qformer.` -> a QFormer of this config."""
    names = {
        "transformer.layers.0.input_layernorm": "norm",
        "transformer.layers.{+1}.input_layernorm": "blocks.{}.query.mlp_norm",
        "transformer.final_layernorm": f"blocks.{config.depth - 1}.query.mlp_norm",
        f"{_LAYER}.attention.dense": "blocks.{}.query.attn.o_proj",
        f"{_LAYER}.post_attention_layernorm": "blocks.{}.query.attn_norm",
        f"{_LAYER}.cross_attention.query": "blocks.{}.query.cross.q_proj",
        f"{_LAYER}.cross_attention.dense": "blocks.{}.query.cross.o_proj",
        f"{_LAYER}.post_cross_attention_layernorm": "blocks.{}.query.cross_norm",
        f"{_LAYER}.mlp.dense_h_to_4h": "blocks.{}.query.mlp.up_proj",
        f"{_LAYER}.mlp.dense_4h_to_h": "blocks.{}.query.mlp.down_proj",
    }
    rows = [rename("transformer.word_embeddings.weight", "queries"), *_pairs(names)]
    rows += _parts("attention.query_key_value", "blocks.{}.query.attn", "qkv")
    rows += _parts("cross_attention.key_value", "blocks.{}.query.cross", "kv")
    return KeyTable(tuple(rows))


def _pairs(names: Mapping[str, str]) -> list[Row]:
    leaves = ("weight", "bias")
    return [rename(f"{theirs}.{leaf}", f"{ours}.{leaf}") for theirs, ours in names.items() for leaf in leaves]


def _parts(theirs: str, ours: str, names: str) -> list[Row]:
    return [split(f"{_LAYER}.{theirs}.{leaf}", [f"{ours}.{name}_proj.{leaf}" for name in names])
            for leaf in ("weight", "bias")]  # fmt: skip
