"""Deformable attention: each query looks at a few points of feature maps, which it chooses itself.

Papers: Deformable DETR (arXiv 2010.04159); ViT-Adapter (2205.08534).

    sample_levels         values [N, S, H, E], places in 0..1 and weights of points on each map -> [N, Q, H * E]
    DeformableAttention   queries at their own places -> offsets in cells of each map, weights -> sample_levels

Trap: offsets count in cells, so that the same number is farther on a smaller map; a place outside a map gives zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMES = {
    "sampling_offsets": "offsets",
    "attention_weights": "weights",
    "value_proj": "v_proj",
    "output_proj": "o_proj",
}
"""Names of the linears in Deformable DETR's code -> ours."""


def sample_levels(values: Tensor, sides: Sequence[int], places: Tensor, weights: Tensor) -> Tensor:
    """values [N, S, H, E], square maps of these sides one behind the other; places [N, Q, H, L, P, 2] as (x, y) in 0..1
    of a map; weights [N, Q, H, L, P] -> their weighted sums [N, Q, H * E].  Outside a map there is zero."""
    count, _, heads, width = values.shape
    maps = values.split([side * side for side in sides], 1)
    grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # [N * H, Q, L, P, 2]
    total: Tensor | float = 0.0
    for level, (side, map_values) in enumerate(zip(sides, maps, strict=True)):
        picture = map_values.permute(0, 2, 3, 1).reshape(count * heads, width, side, side)
        points = F.grid_sample(picture, grids[:, :, level].to(picture.dtype), padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, level].transpose(1, 2).reshape(count * heads, 1, *weights.shape[1:2], -1)
        total = total + (points * share).sum(-1)
    assert isinstance(total, Tensor)
    return total.reshape(count, heads * width, -1).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class DeformableAttentionConfig:
    """levels: how many maps.  inner_width: of the values."""

    width: int
    heads: int
    levels: int
    points: int = 4
    inner_width: int | None = None

    def build(self) -> DeformableAttention:
        return DeformableAttention(self)


class DeformableAttention(nn.Module):
    """queries [N, Q, D] at places [Q, 2] in 0..1, features [N, S, D] of square maps -> [N, Q, D]."""

    def __init__(self, config: DeformableAttentionConfig) -> None:
        super().__init__()
        self.config = config
        count, inner = config.heads * config.levels * config.points, config.inner_width or config.width
        self.offsets = nn.Linear(config.width, count * 2)
        self.weights = nn.Linear(config.width, count)
        self.v_proj = nn.Linear(config.width, inner)
        self.o_proj = nn.Linear(inner, config.width)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, queries: Tensor, places: Tensor, features: Tensor, sides: Sequence[int]) -> Tensor:
        shape = (self.config.heads, self.config.levels, self.config.points)
        values = self.v_proj(features).unflatten(-1, (self.config.heads, -1))
        scale = torch.tensor(sides, dtype=places.dtype, device=places.device)[:, None, None]
        offsets = self.offsets(queries).unflatten(-1, (*shape, 2)) / scale
        weights = self.weights(queries).unflatten(-1, shape)
        weights = weights.flatten(-2).softmax(-1).unflatten(-1, shape[1:])
        return self.o_proj(sample_levels(values, sides, places[:, None, None, None] + offsets, weights))
