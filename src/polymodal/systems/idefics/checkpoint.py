"""IDEFICS as a MultimodalLM: what an IdeficsConfig says of encoder, resampler and decoder, and the hub's names of them.

vision_of, resampler_of, backbone_of: config -> configs of the parts;  keys_of: names on disk -> the model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors.resampler import IDEFICS_KEYS, ResamplerConfig
from polymodal.encoders import clip_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.fusion.cross_attention import GatedCrossAttentionConfig, idefics_keys, with_cross_attention
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.norm import LayerNormConfig, RMSNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, fuse


def vision_of(config: Mapping[str, Any]) -> ViTConfig:
    """vision_config -> the encoder; its names are CLIP's but for `embed_dim`, its defaults are not."""
    given = {"hidden_size": 768, "intermediate_size": 5120, "patch_size": 14, "num_hidden_layers": 32,
             "num_attention_heads": 16, "hidden_act": "gelu", **(config.get("vision_config") or {})}  # fmt: skip
    given["hidden_size"] = given.get("embed_dim", given["hidden_size"])
    return replace(clip_vit.of_config(given), head=None)


def resampler_of(config: Mapping[str, Any]) -> ResamplerConfig | None:
    """perceiver_config -> the connector, None when the encoder's features are seen as they are."""
    if not config.get("use_resampler", False):
        return None
    given = config.get("perceiver_config") or {}
    norm = LayerNormConfig() if given.get("qk_layer_norms_perceiver", False) else None
    return ResamplerConfig(
        latents=given.get("resampler_n_latents", 64),
        depth=given.get("resampler_depth", 6),
        heads=given.get("resampler_n_heads", 16),
        head_dim=given.get("resampler_head_dim", 96),
        activation="relu",
        q_norm=norm,
        k_norm=norm,
    )


def backbone_of(config: Mapping[str, Any], source_width: int) -> DecoderConfig:
    """LLaMA with a gated block in front of every `cross_layer_interval`-th layer."""
    config = {"vocab_size": 32000, "rms_norm_eps": 1e-6, **config}
    config["vocab_size"] += config.get("additional_vocab_size", 0)
    for name in ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"):
        config.pop(name, None)  # LLaMA's options, which this library class does not read
    base = llama.config_of(config)
    interval, kind = config.get("cross_layer_interval", 1), config.get("alpha_type", "float")
    if base.depth % interval or kind not in ("float", "vector"):
        raise ConfigError(
            f"idefics: {base.depth} layers in groups of cross_layer_interval {interval}, alpha_type {kind!r}; "
            "expected whole groups, and 'float' or 'vector'"
        )
    norm, block = RMSNormConfig(eps=config["rms_norm_eps"]), base.blocks[0]
    head_norm = norm if config.get("qk_layer_norms", False) else None
    cross = GatedCrossAttentionConfig(
        attention=AttentionConfig(width=base.width, heads=block.attention.heads, source_width=source_width,
                                  q_norm=head_norm, k_norm=head_norm),
        mlp=block.mlp, norm=norm, gate_width=base.width if kind == "vector" else 1,
    )  # fmt: skip
    return replace(base, blocks=with_cross_attention(base.blocks, cross, range(0, base.depth, interval)))


def keys_of(config: Mapping[str, Any], vision: ViTConfig, backbone: DecoderConfig) -> KeyTable:
    """The hub's names -> the model."""
    base, added = config.get("vocab_size", 32000), config.get("additional_vocab_size", 0)
    rows: list[Row] = []
    for place, more, ours in (
        ("model.embed_tokens.", "additional_embedding.", "embed_tokens.weight"),
        ("lm_head.", "additional_fc.", "lm_head.weight"),
    ):
        pair = (f"{place}weight", f"{place}{more}weight")
        if place == "lm_head." and backbone.tied:
            rows += [drop(name) for name in pair]
        elif added:
            rows.append(fuse(pair, ours, sizes=(base, added)))
    gated = KeyTable((drop("cross_attn.rotary_emb.inv_freq"),)) + idefics_keys(config.get("alpha_type") == "vector")
    interval = config.get("cross_layer_interval", 1)
    text = KeyTable(tuple(rows)) + llama.hf_keys(backbone)
    for group in range(backbone.depth // interval):
        text += gated.prefixed(f"model.gated_cross_attn_layers.{group}.", f"blocks.{group * interval}.cross.")
    spelled = {"vision_model.": "", "visual_projection.": "visual_projection."}
    seen = clip_vit.hf_keys(vision).respelled(spelled)
    table = text.prefixed("", "backbone.") + seen.prefixed("model.vision_model.", "encoders.image.encoder.")
    return table + IDEFICS_KEYS.prefixed("model.perceiver_resampler.", "connectors.image.")
