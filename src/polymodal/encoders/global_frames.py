"""A picture encoder that watches frames through one global token: VideoChat's ViT with UniFormerV2's global blocks.

Papers: VideoChat (arXiv 2305.06355), UniFormerV2 (2211.09552).

    frames [N, F, 3, H, W] -> ViT per frame -> behind each of the last blocks, from its features [N, F, S, D]:
        norm -> + depthwise 3x3x3 convolution of the patches over frames, rows and columns   (class tokens stay)
        token [N, 1, D] + attention(norm(token), all F*S features) -> + MLP(norm(token))
    [all F*S features, token] -> norm -> [N, F*S + 1, D]

Traps: the global blocks only read; what flows through the ViT never changes.  Their norms have eps 1e-5, the blocks
1e-6.  A picture is a video of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from polymodal.encoders.vit import ViT, ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class GlobalFramesConfig:
    """`frame`: the ViT of one frame with its final norm, which all features get at the end.  `layers`: of its last
    blocks, how many have a global block behind them."""

    frame: ViTConfig
    layers: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= len(self.frame.blocks):
            raise ConfigError(
                f"global blocks: expected 1 to {len(self.frame.blocks)}, one a block, found {self.layers}"
            )

    @property
    def width(self) -> int:
        return self.frame.width

    def build(self) -> GlobalFrames:
        return GlobalFrames(self)


class GlobalBlock(nn.Module):
    """See the module docstring."""

    def __init__(self, block: ViTBlockConfig) -> None:
        super().__init__()
        width, norm = block.attention.width, LayerNormConfig(eps=1e-5)
        self.token_norm, self.feature_norm, self.mlp_norm = (norm.build(width) for _ in range(3))
        self.positions = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.attn = AttentionConfig(
            width=width, heads=block.attention.heads, qkv_bias=True, out_bias=True, source_width=width
        ).build()
        self.mlp = block.mlp.build()

    def forward(self, token: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """token [N, 1, D], features [N, F, 1 + h*w, D] -> token [N, 1, D]; grid: (h, w)."""
        x = self.feature_norm(features)
        patches = x[:, :, 1:].unflatten(2, grid).movedim(-1, 1)
        patches = self.positions(patches).movedim(1, -1).flatten(2, 3)
        x = torch.cat((x[:, :, :1], x[:, :, 1:] + patches), 2)
        token = token + self.attn(self.token_norm(token), source=x.flatten(1, 2))
        return token + self.mlp(self.mlp_norm(token))


class GlobalFrames(nn.Module):
    """See the module docstring."""

    def __init__(self, config: GlobalFramesConfig) -> None:
        super().__init__()
        self.config = config
        frame = config.frame
        assert frame.final_norm is not None and frame.class_token
        self.frame: ViT = replace(frame, final_norm=None).build()
        self.token = nn.Parameter(torch.zeros(frame.width))
        self.global_blocks = nn.ModuleList(
            GlobalBlock(_plain(block)) for block in frame.blocks[-config.layers :]
        )  # one for each of the last blocks, in their order
        self.final_norm = frame.final_norm.build(frame.width)

    def forward(self, frames: Tensor) -> Tensor:
        """float [N, F, 3, H, W], or pictures [N, 3, H, W] -> [N, F*S + 1, D].  Raises ConfigError for other ranks."""
        frames = frames[:, None] if frames.dim() == 4 else frames
        if frames.dim() != 5:
            raise ConfigError(f"expected frames [N, F, 3, H, W], found {list(frames.shape)}")
        count, length = frames.shape[:2]
        x = self.frame.embed(frames.flatten(0, 1))
        token, first = self.token.expand(count, 1, -1), len(self.frame.blocks) - len(self.global_blocks)
        for index, block in enumerate(self.frame.blocks):
            x = block(x)
            if index >= first:
                seen = x.unflatten(0, (count, length))
                token = self.global_blocks[index - first](token, seen, self.config.frame.grid_sides)
        return self.final_norm(torch.cat((x.unflatten(0, (count, length)).flatten(1, 2), token), 1))


def _plain(block: object) -> ViTBlockConfig:
    if not isinstance(block, ViTBlockConfig) or not isinstance(block.mlp, MLPConfig):
        raise ConfigError("global blocks stand behind plain ViT blocks only")
    return block


_NAMES = {
    "ln_1": "token_norm", "ln_2": "mlp_norm", "ln_3": "feature_norm", "dpe": "positions",
    "attn.out_proj": "attn.o_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj",
}  # fmt: skip


def official_keys() -> KeyTable:
    """What the official class has under `visual_encoder.` beside the ViT -> ours."""
    rows: list[Row] = [rename("gmhra_cls_token", "token", Squeeze(), Squeeze())]
    for theirs, ours in _NAMES.items():
        rows += [
            rename(f"gmhra.{{}}.{theirs}.{leaf}", f"global_blocks.{{}}.{ours}.{leaf}") for leaf in ("weight", "bias")
        ]
    for leaf in ("weight", "bias"):
        rows.append(split(f"gmhra.{{}}.attn.in_proj_{leaf}",
                          [f"global_blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]))  # fmt: skip
    return KeyTable(tuple(rows))
