"""A ViT on patches of which some may be hidden, that gives the states behind its last and behind its second block.

Unified-IO 2 (arXiv 2312.17172): CLIP's ViT-B/16 for pictures and frames, AST for sound, each without its last block.

    patches [N, P, values], mask [N, P] -> linear; tokens in front; + positions -> (norm) -> blocks
    -> states of the patches [N, P, D], twice

Traps: positions of pictures are resized (bicubic, antialiased) to the grid at hand; a spectrogram's are kept in columns
although its patches come in rows; what is hidden is seen by nobody, its own states are of no use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig


@dataclass(frozen=True, kw_only=True)
class PatchViTConfig:
    """values: of a patch.  front: tokens in front.  positions: rows of the table.  norm_first: before the blocks."""

    values: int
    width: int
    heads: int
    depth: int
    ffn_width: int
    front: int = 1
    positions: int = 197
    activation: str = "gelu"
    eps: float = 1e-5
    norm_first: bool = True
    by_columns: bool = False

    def __post_init__(self) -> None:
        side = round((self.positions - self.front) ** 0.5)
        if self.depth < 2:
            raise ConfigError(f"patch ViT: its second block is read, expected two or more, found {self.depth}")
        if not self.by_columns and side**2 != self.positions - self.front:
            raise ConfigError(f"patch ViT: expected positions of a square, found {self.positions - self.front}")

    def build(self) -> PatchViT:
        return PatchViT(self)


class PatchViT(nn.Module):
    """See the module docstring."""

    pre_norm: nn.Module | None

    def __init__(self, config: PatchViTConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        norm = LayerNormConfig(eps=config.eps)
        block = PreNormBlockConfig(
            attention=AttentionConfig(width=width, heads=config.heads, qkv_bias=True, out_bias=True),
            mlp=MLPConfig(width=width, ffn_width=config.ffn_width, activation=config.activation),
            norm=norm,
        )
        self.embed = LinearConfig().build(config.values, width, config.by_columns)
        self.front = nn.Parameter(torch.zeros(config.front, width))
        self.positions = nn.Parameter(torch.randn(config.positions, width) * 0.02)
        self.pre_norm = norm.build(width) if config.norm_first else None
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))

    def forward(self, patches: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """grid: rows and columns of the patches."""
        front = self.config.front
        x = torch.cat((self.front.expand(len(patches), -1, -1), self.embed(patches.to(self.embed.weight.dtype))), 1)
        x = x + torch.cat((self.positions[:front], self._positions(grid)))
        x = x if self.pre_norm is None else self.pre_norm(x)
        rule = MaskSpec(causal=False, attention_mask=None if mask is None else F.pad(mask, (front, 0), value=1))
        prepared = rule.prepare(x.shape[1], x.shape[1], x.device)
        states = []
        for block in self.blocks:
            x = block(x, prepared)
            states.append(x)
        return x[:, front:], states[1][:, front:]

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """[P, D] of a grid."""
        table, (rows, columns) = self.positions[self.config.front :], grid
        if self.config.by_columns:
            return table[: rows * columns].unflatten(0, (columns, rows)).transpose(0, 1).flatten(0, 1)
        side = round(len(table) ** 0.5)
        if (side, side) == grid:
            return table
        square = table.unflatten(0, (side, side)).permute(2, 0, 1)[None]
        resized = F.interpolate(square, grid, mode="bicubic", align_corners=False, antialias=True)
        return resized[0].permute(1, 2, 0).flatten(0, 1)
