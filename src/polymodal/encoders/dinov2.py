"""DINOv2 (arXiv 2304.07193): a self-supervised ViT with layer scale; the giant one has gated MLPs.

Flow: see `vit.py`; class token and patches + positions -> blocks  x + a * attn(norm(x)),  x + m * mlp(norm(x))
-> norm of all tokens -> features [N, 1 + h * w, D], class token first

Traps: positions were learned for pictures of 518 pixels and are resized at each call by a factor that is a tenth of a
patch too large, which moves them; pixels are normalised by ImageNet's statistics, not CLIP's; the mask token is part
of the files though features do not need it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.encoders.intern_vit import InternBlockConfig
from polymodal.encoders.vit import ViT, ViTConfig
from polymodal.nn.mlp import FeedForwardConfig, GatedMLPConfig, MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze

OFFSET = 0.1  # patches by which the official code enlarges the grid it resizes to
PIXEL_MEAN = (0.485, 0.456, 0.406)
"""Per-channel mean of pixels in 0..1, ImageNet's."""
PIXEL_STD = (0.229, 0.224, 0.225)
"""Per-channel standard deviation of pixels in 0..1, ImageNet's."""


@dataclass(frozen=True, kw_only=True)
class DinoV2Config:
    """`vit`: as `dinov2` builds it; its `image_size` is the one that positions were learned for."""

    vit: ViTConfig

    @property
    def width(self) -> int:
        return self.vit.width

    def build(self) -> DinoV2:
        """Build the encoder with fresh weights."""
        return DinoV2(self.vit)


class DinoV2(ViT):
    """A ViT that resizes its positions as DINOv2 does."""

    def positions_for(self, height: int, width: int) -> Tensor:
        """The position table [S, D] for a grid of `height` x `width` patches."""
        rows, columns = self.config.grid_sides
        if (height, width) == (rows, columns):
            return self.positions
        planes = self.positions[1:].float().T.reshape(1, -1, rows, columns)
        factors = ((height + OFFSET) / rows, (width + OFFSET) / columns)
        planes = F.interpolate(planes, scale_factor=factors, mode="bicubic")
        return torch.cat((self.positions[:1], planes[0].flatten(1).T.to(self.positions.dtype)))


def dinov2(
    *, width: int, depth: int, heads: int, image_size: int = 518, patch_size: int = 14, gated: bool = False
) -> DinoV2Config:
    """DINOv2 without registers at any size; gated: the MLP has three linears, two thirds as wide (the giant)."""
    mlp: FeedForwardConfig = MLPConfig(width=width, ffn_width=4 * width)
    if gated:
        mlp = GatedMLPConfig(width=width, ffn_width=(4 * width * 2 // 3 + 7) // 8 * 8, bias=True)
    norm = LayerNormConfig(eps=1e-6)
    block = InternBlockConfig(width=width, heads=heads, mlp=mlp, norm=norm, qkv_bias=True, scale=1.0)
    vit = ViTConfig(image_size=image_size, patch_size=patch_size, width=width, blocks=(block,) * depth,
                    final_norm=norm, resize_positions=True, mask_token=True)  # fmt: skip
    return DinoV2Config(vit=vit)


VIT_G_14 = dinov2(width=1536, depth=40, heads=24, gated=True)


def official_keys(gated: bool = False) -> KeyTable:
    """The official names -> ours; gated: as for `dinov2`."""
    block = "blocks.{}"
    names = {"patch_embed.proj": "patch_embed", "norm": "final_norm", f"{block}.norm1": f"{block}.attn_norm",
             f"{block}.norm2": f"{block}.mlp_norm", f"{block}.attn.proj": f"{block}.attn.o_proj",
             f"{block}.mlp.{'w3' if gated else 'fc2'}": f"{block}.mlp.down_proj"}  # fmt: skip
    rows: list[Row] = [
        rename("cls_token", "class_token", Squeeze(), Squeeze()),
        rename("mask_token", "mask_token", Squeeze()),
        rename("pos_embed", "positions", Squeeze()),
        rename(f"{block}.ls1.gamma", f"{block}.attn_scale"),
        rename(f"{block}.ls2.gamma", f"{block}.mlp_scale"),
    ]
    for leaf in ("weight", "bias"):
        rows += [rename(f"{theirs}.{leaf}", f"{ours}.{leaf}") for theirs, ours in names.items()]
        rows.append(split(f"{block}.attn.qkv.{leaf}", [f"{block}.attn.{name}_proj.{leaf}" for name in "qkv"]))
        up = [f"{block}.mlp.{name}_proj.{leaf}" for name in ("gate", "up")]
        rows.append(split(f"{block}.mlp.w12.{leaf}", up) if gated else rename(f"{block}.mlp.fc1.{leaf}", up[1]))
    return KeyTable(tuple(rows))
