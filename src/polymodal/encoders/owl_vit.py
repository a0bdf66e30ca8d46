"""The image encoder of mPLUG-Owl and mPLUG-Owl2: CLIP's architecture with other weights and names.

Papers: mPLUG-Owl (arXiv 2304.14178), mPLUG-Owl2 (arXiv 2311.04257).

Flow
    pixel_values -> patch convolution without bias, class token, positions -> pre_norm -> blocks -> final_norm (all
    tokens)

Traps
- Unlike CLIP, the final norm applies to every token and the class token is kept.
- q, k and v are one fused weight, interleaved by head.
- Without a class token the table has 256 positions for any image size; it is resized to the grid on load.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.vit import ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Reshape, ResizePositions

TABLE = 16  # side of the position table of models without a class token


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder of a MplugOwlVisionConfig dict, at any size.  Raises ConfigError unless it has 3 channels."""
    if config.get("num_channels", 3) != 3:
        raise ConfigError(f"owl vit: num_channels {config['num_channels']} is not supported; expected 3")
    width, norm = config.get("hidden_size", 1024), LayerNormConfig(eps=config.get("layer_norm_eps", 1e-6))
    heads, activation = config.get("num_attention_heads", 16), config.get("hidden_act", "quick_gelu")
    block = ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=config.get("intermediate_size", 4096), activation=activation),
        norm=norm,
    )
    return ViTConfig(
        image_size=config.get("image_size", 448),
        patch_size=config.get("patch_size", 14),
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 24),
        patch_bias=False,
        class_token=config.get("use_cls_token", True),
        pre_norm=norm,
        final_norm=norm if config.get("use_post_layernorm", True) else None,
    )


def hf_keys(config: ViTConfig) -> KeyTable:
    """Published names (under `model.vision_model.`) -> ours."""
    block = config.blocks[0]
    assert isinstance(block, ViTBlockConfig)
    rows: list[Row] = [
        rename("embeddings.patch_embed.weight", "patch_embed.weight"),
        *_positions(config),
        *_pair("embeddings.pre_layernorm", "pre_norm"),
        *_pair("post_layernorm", "final_norm"),
        *_pair("encoder.layers.{}.input_layernorm", "blocks.{}.attn_norm"),
        *_pair("encoder.layers.{}.post_attention_layernorm", "blocks.{}.mlp_norm"),
        *_pair("encoder.layers.{}.self_attn.dense", "blocks.{}.attn.o_proj"),
        *_pair("encoder.layers.{}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair("encoder.layers.{}.mlp.fc2", "blocks.{}.mlp.down_proj"),
    ]
    for leaf in ("weight", "bias"):
        source = f"encoder.layers.{{}}.self_attn.query_key_value.{leaf}"
        targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
        rows.append(split(source, targets, groups=block.attention.heads))
    return KeyTable(tuple(rows))


def _positions(config: ViTConfig) -> tuple[Row, ...]:
    width = config.width
    if not config.class_token:
        grid = ResizePositions((TABLE, TABLE), (config.grid, config.grid))
        return (rename("embeddings.position_embedding", "positions", grid),)
    count = config.patches + 1
    return (
        rename("embeddings.cls_token", "class_token", Reshape((1, 1, width), (width,))),
        rename("embeddings.position_embedding", "positions", Reshape((1, count, width), (count, width))),
    )


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")
