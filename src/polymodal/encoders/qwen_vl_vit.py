"""The picture encoder of Qwen-VL (arXiv 2308.12966): OpenCLIP's ViT-bigG/14 without class token and last norm.

Flow: see `vit.py`; patches + positions -> norm -> pre-norm blocks with exact GELU -> every patch of the last block.

Traps: positions are kept for a grid of 16 x 16 whatever the picture's size and resized at each call; the fused rows of
q, k and v lie by heads, as GPT-NeoX keeps them; all norms have epsilon 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.vit import ViTBlockConfig, ViTConfig
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, rename, split

STORED = 16  # patches along a side of the table of positions


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder that the table `visual` of a QWenConfig describes, at any size."""
    width, patch = config["width"], config["patch_size"]
    norm = LayerNormConfig(eps=1e-6)
    attention = AttentionConfig(width=width, heads=config["heads"], qkv_bias=True, out_bias=True)
    mlp = MLPConfig(width=width, ffn_width=int(width * config["mlp_ratio"]))
    return ViTConfig(
        image_size=STORED * patch,
        patch_size=patch,
        width=width,
        blocks=(ViTBlockConfig(attention=attention, mlp=mlp, norm=norm),) * config["layers"],
        patch_bias=False,
        class_token=False,
        pre_norm=norm,
        resize_positions=True,
    )


def published_keys(config: ViTConfig, heads: int) -> KeyTable:
    """The published names (under `transformer.visual.`) -> a ViT of `config`; strict both ways."""
    block, ours = "transformer.resblocks.{}", "blocks.{}"
    pairs = (("ln_1", "attn_norm"), ("attn.out_proj", "attn.o_proj"), ("ln_2", "mlp_norm"),
             ("mlp.c_fc", "mlp.up_proj"), ("mlp.c_proj", "mlp.down_proj"))  # fmt: skip
    leaves, qkv = ("weight", "bias"), [f"{ours}.attn.{name}_proj" for name in "qkv"]
    return KeyTable(
        (
            rename("conv1.weight", "patch_embed.weight"),
            rename("positional_embedding", "positions"),
            *(rename(f"ln_pre.{leaf}", f"pre_norm.{leaf}") for leaf in leaves),
            *(
                split(f"{block}.attn.in_proj.{leaf}", [f"{name}.{leaf}" for name in qkv], groups=heads)
                for leaf in leaves
            ),
            *(rename(f"{block}.{a}.{leaf}", f"{ours}.{b}.{leaf}") for a, b in pairs for leaf in leaves),
        )
    )
