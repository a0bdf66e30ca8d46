"""AnyRes packing of LLaVA-1.6 (blog of January 2024): tiles are laid out as the picture they were cut from.

Flow
    features of one picture [t, S, Din], the whole picture first -> project -> [t, S, D]
    tiles -> one grid [rows*s, columns*s, D] -> rows and columns that show only padding are cut off
    -> a learned newline behind every row -> [whole picture | grid row by row] [q, D]

Traps
- Sizes are (height, width).  The published processor rounds to 7 digits before it truncates (`digits`), the official
  code does not; for some odd sizes one row or column more is left.
- Every row ends with the newline, the last one too; a picture without tiles gets one newline at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymodal.connectors.linear import ConnectorConfig
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.data.tiles import LLAVA_GRIDS, Grid, best_grid
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AnyResConfig:
    """`side`: patches along one side of a tile of `tile` pixels; `grids`: the (rows, columns) a picture may have."""

    tile: int
    side: int
    grids: tuple[Grid, ...] = LLAVA_GRIDS
    project: ConnectorConfig = field(default_factory=MLPConnectorConfig)
    digits: int | None = 7

    def build(self, in_width: int, out_width: int) -> "AnyRes":
        """Build the connector with fresh weights."""
        return AnyRes(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features of a picture without tiles; `tokens_of` counts those of a picture by its size."""
        return n_in + 1

    def tokens_of(self, height: int, width: int) -> int:
        """Features out for a picture of this size."""
        rows, columns = self.shown(height, width)
        return self.side**2 + (rows.stop - rows.start) * (columns.stop - columns.start + 1)

    def shown(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the tiles' common grid that show the picture and not the padding around it."""
        down, across = best_grid(width, height, self.tile, self.grids)
        rows, columns = down * self.side, across * self.side
        if width / height > columns / rows:
            margin = (rows - self._whole(height * (columns / width))) // 2
            return slice(margin, rows - margin), slice(0, columns)
        margin = (columns - self._whole(width * (rows / height))) // 2
        return slice(0, rows), slice(margin, columns - margin)

    def _whole(self, length: float) -> int:
        return int(length if self.digits is None else round(length, self.digits))


class AnyRes(nn.Module):
    """A list of `[t, S, Din]` -> a list of `[q, Dout]`."""

    def __init__(self, config: AnyResConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build(in_width, out_width)
        self.newline = nn.Parameter(torch.randn(out_width) / out_width**0.5)

    def forward(self, features: Sequence[Tensor], image_sizes: Tensor) -> list[Tensor]:
        """float [t, S, Din] for each picture and int [N, 2] = (height, width) -> float [q, Dout] for each.

        Raises ConfigError when a tile has another number of features than its grid of patches.
        """
        lengths = [len(item) for item in features]
        projected = self.project(torch.cat(list(features))).split(lengths)
        return [self._pack(item, *size) for item, size in zip(projected, image_sizes.tolist(), strict=True)]

    def _pack(self, item: Tensor, height: int, width: int) -> Tensor:
        whole, tiles, side = item[0], item[1:], self.config.side
        if not len(tiles):
            return torch.cat((whole, self.newline[None]))
        if tiles.shape[1] != side**2:
            raise ConfigError(f"anyres: expected {side} x {side} features for a tile, found {tiles.shape[1]}")
        down, across = best_grid(width, height, self.config.tile, self.config.grids)
        grid = tiles.unflatten(1, (side, side)).unflatten(0, (down, across)).transpose(1, 2)
        rows, columns = self.config.shown(height, width)
        grid = grid.flatten(0, 1).flatten(1, 2)[rows, columns]
        ends = self.newline.expand(len(grid), 1, -1)
        return torch.cat((whole, torch.cat((grid, ends), 1).flatten(0, 1)))


def grids_of_pinpoints(pinpoints: Sequence[Sequence[int]], tile: int) -> tuple[Grid, ...]:
    """Published `image_grid_pinpoints`, (height, width) in pixels, as grids of tiles; raises ConfigError for others."""
    for height, width in pinpoints:
        if height % tile or width % tile:
            raise ConfigError(f"image_grid_pinpoints: {[height, width]} is no multiple of the encoder's {tile} pixels")
    return tuple((height // tile, width // tile) for height, width in pinpoints)
