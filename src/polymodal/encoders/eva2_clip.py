"""EVA2-CLIP-E, the image encoder of CogVLM and CogAgent: a ViT with post-branch norms.

Papers: EVA-CLIP (arXiv 2303.15389), CogVLM (arXiv 2311.03079).

Flow
    pixel_values -> patch convolution with bias, class token, positions -> 63 blocks -> features without class token
    block: x + attn_norm(attn(x)), then x + mlp_norm(mlp(x))

Traps
- The norm applies to the output of a branch, not to its input; there is no norm before or after the blocks.
- The published encoder lacks EVA's last layer; q, k, v are one fused weight in that order.
- The activation is the exact GELU of the config; EVA's own code names every tensor differently.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import FeedForwardConfig, MLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Reshape


@dataclass(frozen=True, kw_only=True)
class BranchNormBlockConfig:
    """A block with a norm after each branch, before the residual addition."""

    attention: AttentionConfig
    mlp: FeedForwardConfig
    norm: NormConfig = field(default_factory=LayerNormConfig)

    def build(self) -> "BranchNormBlock":
        return BranchNormBlock(self)


class BranchNormBlock(nn.Module):
    """`x + attn_norm(attn(x))`, then `x + mlp_norm(mlp(x))`; attention is bidirectional."""

    def __init__(self, config: BranchNormBlockConfig) -> None:
        super().__init__()
        width = config.attention.width
        self.attn = config.attention.build()
        self.attn_norm = config.norm.build(width)
        self.mlp = config.mlp.build()
        self.mlp_norm = config.norm.build(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, D] -> [N, S, D]."""
        x = x + self.attn_norm(self.attn(x))
        return x + self.mlp_norm(self.mlp(x))


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder of a CogVLM `vision_config`, at any size.

    Raises ConfigError if `num_positions` is not the number of patches plus the class token.
    """
    width = config.get("hidden_size", 1792)
    attention = AttentionConfig(
        width=width, heads=config.get("num_heads", config.get("num_attention_heads", 16)), qkv_bias=True, out_bias=True
    )
    mlp = MLPConfig(
        width=width, ffn_width=config.get("intermediate_size", 15360), activation=config.get("hidden_act", "gelu")
    )
    block = BranchNormBlockConfig(
        attention=attention, mlp=mlp, norm=LayerNormConfig(eps=config.get("layer_norm_eps", 1e-6))
    )
    encoder = ViTConfig(
        image_size=config.get("image_size", 490),
        patch_size=config.get("patch_size", 14),
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 63),
        channels=config.get("in_channels", config.get("num_channels", 3)),
        keep_class=False,
    )
    expected = encoder.patches + 1
    if config.get("num_positions", expected) != expected:
        raise ConfigError(
            f"eva2 clip: expected num_positions {expected} (patches and class token), found {config['num_positions']}"
        )
    return encoder


def hf_keys(config: ViTConfig) -> KeyTable:
    """Names of the published checkpoints (under `model.vision.`) -> ours."""
    rows: list[Row] = [
        rename("patch_embedding.cls_embedding", "class_token", Reshape((1, config.width), (config.width,))),
        *_pair("patch_embedding.proj", "patch_embed"),
        rename("patch_embedding.position_embedding.weight", "positions"),
        *_pair("transformer.layers.{}.input_layernorm", "blocks.{}.attn_norm"),
        *_pair("transformer.layers.{}.post_attention_layernorm", "blocks.{}.mlp_norm"),
        *_pair("transformer.layers.{}.attention.dense", "blocks.{}.attn.o_proj"),
        *_pair("transformer.layers.{}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair("transformer.layers.{}.mlp.fc2", "blocks.{}.mlp.down_proj"),
    ]
    for leaf in ("weight", "bias"):
        targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
        rows.append(split(f"transformer.layers.{{}}.attention.query_key_value.{leaf}", targets))
    return KeyTable(tuple(rows))


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")
