"""EVA-CLIP's ViT-g/14 as used by BLIP-2: config and key tables for `vit.py`.

Papers: EVA (arXiv 2211.07636), BLIP-2 (2301.12597); also in InstructBLIP, MiniGPT-4 and Video-LLaMA.

    pixel_values -> patch convolution with bias, class token, positions -> 39 of the 40 EVA blocks -> norm of ALL tokens
    -> features [N, 1 + h*w, 1408], class token included

Traps
- EVA's last block is not used; the final norm is BLIP-2's own `ln_vision`, not EVA's.
- `ln_vision` has eps 1e-5 in the official code; transformers gives it the eps of the blocks (1e-6).
- The official file has biases for queries and values only; the hub file has one for the keys too, filled with zeros
  (it cancels in the softmax, but it is a parameter and is kept).
- The position table fits one size; other sizes need `interpolate_pos_encoding=True` in the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.vit import ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze


def parse_config(config: Mapping[str, Any], official: bool = False) -> ViTConfig:
    """The encoder of a BLIP-2 or InstructBLIP `vision_config` on the hub.

    official: as in the official code, without key biases and with eps 1e-5 in the final norm.
    """
    sides = {name: config.get(name, default) for name, default in (("image_size", 224), ("patch_size", 14))}
    for name, side in sides.items():
        if not isinstance(side, int):
            raise ConfigError(f"vision_config.{name}: expected one number (square), found {side!r}")
    width, bias = config.get("hidden_size", 1408), bool(config.get("qkv_bias", True))
    eps = config.get("layer_norm_eps", 1e-6)
    keys = LinearConfig(bias=bias and not official)
    attention = AttentionConfig(
        width=width, heads=config.get("num_attention_heads", 16), qkv_bias=bias, out_bias=True,
        linears=AttentionLinears(k=keys),
    )  # fmt: skip
    ffn_width, activation = config.get("intermediate_size", 6144), config.get("hidden_act", "gelu")
    block = ViTBlockConfig(
        attention=attention,
        mlp=MLPConfig(width=width, ffn_width=ffn_width, activation=activation),
        norm=LayerNormConfig(eps=eps),
    )
    return ViTConfig(
        image_size=sides["image_size"],
        patch_size=sides["patch_size"],
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 39),
        final_norm=LayerNormConfig(eps=1e-5 if official else eps),
    )


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


def _split_qkv(source: str, names: str = "qkv", leaf: str = "weight") -> Row:
    return split(source, [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in names])


_HF = "encoder.layers.{}"
HF_KEYS = KeyTable(
    (
        rename("embeddings.class_embedding", "class_token", Squeeze(), Squeeze()),
        rename("embeddings.position_embedding", "positions", Squeeze()),
        *_pair("embeddings.patch_embedding", "patch_embed"),
        *_pair(f"{_HF}.layer_norm1", "blocks.{}.attn_norm"),
        *_pair(f"{_HF}.layer_norm2", "blocks.{}.mlp_norm"),
        _split_qkv(f"{_HF}.self_attn.qkv.weight"),
        _split_qkv(f"{_HF}.self_attn.qkv.bias", leaf="bias"),
        *_pair(f"{_HF}.self_attn.projection", "blocks.{}.attn.o_proj"),
        *_pair(f"{_HF}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_HF}.mlp.fc2", "blocks.{}.mlp.down_proj"),
        *_pair("post_layernorm", "final_norm"),
    )
)
"""Hub names under `vision_model.` -> ours."""

_OFFICIAL = "blocks.{}"
OFFICIAL_KEYS = KeyTable(
    (
        rename("cls_token", "class_token", Squeeze(), Squeeze()),
        rename("pos_embed", "positions", Squeeze()),
        *_pair("patch_embed.proj", "patch_embed"),
        *_pair(f"{_OFFICIAL}.norm1", "blocks.{}.attn_norm"),
        *_pair(f"{_OFFICIAL}.norm2", "blocks.{}.mlp_norm"),
        _split_qkv(f"{_OFFICIAL}.attn.qkv.weight"),
        rename(f"{_OFFICIAL}.attn.q_bias", "blocks.{}.attn.q_proj.bias"),
        rename(f"{_OFFICIAL}.attn.v_bias", "blocks.{}.attn.v_proj.bias"),
        *_pair(f"{_OFFICIAL}.attn.proj", "blocks.{}.attn.o_proj"),
        *_pair(f"{_OFFICIAL}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_OFFICIAL}.mlp.fc2", "blocks.{}.mlp.down_proj"),
    )
)
"""Official names under `visual_encoder.` -> ours; the sibling `ln_vision` becomes `final_norm`."""
