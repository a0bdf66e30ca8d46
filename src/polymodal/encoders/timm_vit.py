"""timm's ViT, used by ALBEF and BLIP: published sizes (DeiT-B, ImageNet-21k ViT-L) and key tables.

Papers: DeiT (arXiv 2012.12877), BLIP (arXiv 2201.12086).

Flow
    pixel_values -> patch convolution with bias, class token, positions -> pre-norm blocks -> norm
    -> features [N, S, D]

Traps
- Norm eps is 1e-6 in the official code and 1e-5 in transformers' BlipVisionConfig: take it from the source of the
  weights.
- q, k and v are one fused weight, in that order, in both formats.
- transformers' pooled vector applies the final norm twice to the class token; only BlipModel uses it.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.google_vit import google_vit
from polymodal.encoders.vit import ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze

DEIT_B_16 = google_vit(width=768, depth=12, heads=12, patch_size=16, eps=1e-6)
VIT_L_16 = google_vit(width=1024, depth=24, heads=16, patch_size=16, eps=1e-6)


def parse_blip_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder of a `BlipVisionConfig`, at any size; raises ConfigError for sizes that are not one number."""
    for name, default in (("image_size", 384), ("patch_size", 16)):
        if not isinstance(config.get(name, default), int):
            raise ConfigError(f"blip vision_config: {name} must be one number, found {config[name]}")
    width = config.get("hidden_size", 768)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-5))
    heads = config.get("num_attention_heads", 12)
    ffn = config.get("intermediate_size", 3072)
    block = ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=ffn, activation=config.get("hidden_act", "gelu")),
        norm=norm,
    )
    return ViTConfig(
        image_size=config.get("image_size", 384),
        patch_size=config.get("patch_size", 16),
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 12),
        final_norm=norm,
    )


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return (
        rename(f"{source}.weight", f"{target}.weight"),
        rename(f"{source}.bias", f"{target}.bias"),
    )


def _split_qkv(source: str) -> tuple[Row, Row]:
    def targets(leaf: str) -> list[str]:
        return [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]

    return split(f"{source}.weight", targets("weight")), split(f"{source}.bias", targets("bias"))


TIMM_KEYS = KeyTable(
    (
        rename("cls_token", "class_token", Squeeze(0), Squeeze(0)),
        rename("pos_embed", "positions", Squeeze(0)),
        *_pair("patch_embed.proj", "patch_embed"),
        *_pair("blocks.{}.norm1", "blocks.{}.attn_norm"),
        *_split_qkv("blocks.{}.attn.qkv"),
        *_pair("blocks.{}.attn.proj", "blocks.{}.attn.o_proj"),
        *_pair("blocks.{}.norm2", "blocks.{}.mlp_norm"),
        *_pair("blocks.{}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair("blocks.{}.mlp.fc2", "blocks.{}.mlp.down_proj"),
        *_pair("norm", "final_norm"),
    )
)
"""timm's names, as in the official ALBEF and BLIP files, -> ours."""

_HF = "encoder.layers.{}"
BLIP_KEYS = KeyTable(
    (
        rename("embeddings.class_embedding", "class_token", Squeeze(0), Squeeze(0)),
        rename("embeddings.position_embedding", "positions", Squeeze(0)),
        *_pair("embeddings.patch_embedding", "patch_embed"),
        *_pair(f"{_HF}.layer_norm1", "blocks.{}.attn_norm"),
        *_split_qkv(f"{_HF}.self_attn.qkv"),
        *_pair(f"{_HF}.self_attn.projection", "blocks.{}.attn.o_proj"),
        *_pair(f"{_HF}.layer_norm2", "blocks.{}.mlp_norm"),
        *_pair(f"{_HF}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_HF}.mlp.fc2", "blocks.{}.mlp.down_proj"),
        *_pair("post_layernorm", "final_norm"),
    )
)
"""Names of transformers' BlipVisionModel -> ours."""
