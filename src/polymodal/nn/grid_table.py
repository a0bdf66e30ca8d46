"""Tables of positions on a grid of patches: resized to another grid, and computed from sines.

learned [rows * columns, D] -> bicubic, without antialiasing, in float32 -> [other rows * other columns, D]
sines   of the column in the first half of D, of the row in the second (MAE, arXiv 2111.06377)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(table: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Positions [rows * columns, D] of a `grid` for a `target` grid; the same table where the grids are equal."""
    if grid == target:
        return table
    planes = table.float().T.reshape(1, -1, *grid)
    planes = F.interpolate(planes, size=target, mode="bicubic", align_corners=False)
    return planes[0].flatten(1).T.to(table.dtype)


def sines_2d(side: int, width: int) -> Tensor:
    """float32 [side * side, width]: sines and cosines of the column, then of the row; width: a multiple of 4."""
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat((angles.sin(), angles.cos()), 1)
    columns, rows = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat((columns, rows), -1).flatten(0, 1).float()
