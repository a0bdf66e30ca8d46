"""AnyRes packing of LLaVA-1.6 (blog post of January 2024): tile features are put back into the layout of the image.

Flow
    features of one image [t, S, Din], the downscaled whole image first -> project -> [t, S, D]
    tiles -> one grid [rows*s, columns*s, D] -> remove rows and columns of padding
    -> append a learned newline to every row -> [whole image | grid, row-major] [q, D]

Traps
- Sizes are (height, width).  transformers' processor rounds to 7 digits before it truncates (`digits`), the official
  code does not; for some odd sizes that leaves one more row or column.
- Every row ends with a newline, the last one too; an image without tiles gets one newline at its end.
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
    """`side`: patches along one side of a tile of `tile` pixels; `grids`: the (rows, columns) an image may use."""

    tile: int
    side: int
    grids: tuple[Grid, ...] = LLAVA_GRIDS
    project: ConnectorConfig = field(default_factory=MLPConnectorConfig)
    digits: int | None = 7

    def build(self, in_width: int, out_width: int) -> "AnyRes":
        """Build the connector with fresh weights."""
        return AnyRes(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features of an image without tiles; for an image with tiles use `tokens_of`."""
        return n_in + 1

    def tokens_of(self, height: int, width: int) -> int:
        """Features out for an image of this size in pixels."""
        rows, columns = self.unpadded(height, width)
        return self.side**2 + (rows.stop - rows.start) * (columns.stop - columns.start + 1)

    def unpadded(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the patch grid that hold the image and not its padding."""
        tile_rows, tile_columns = best_grid(width, height, self.tile, self.grids)
        rows, columns = tile_rows * self.side, tile_columns * self.side
        if width / height > columns / rows:
            margin = (rows - self._truncate(height * (columns / width))) // 2
            return slice(margin, rows - margin), slice(0, columns)
        margin = (columns - self._truncate(width * (rows / height))) // 2
        return slice(0, rows), slice(margin, columns - margin)

    def _truncate(self, length: float) -> int:
        return int(length if self.digits is None else round(length, self.digits))


class AnyRes(nn.Module):
    """A list of `[t, S, Din]` -> a list of `[q, Dout]`."""

    def __init__(self, config: AnyResConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build(in_width, out_width)
        self.newline = nn.Parameter(torch.randn(out_width) / out_width**0.5)

    def forward(self, features: Sequence[Tensor], image_sizes: Tensor) -> list[Tensor]:
        """float [t, S, Din] per image and int [N, 2] = (height, width) -> float [q, Dout] per image.

        Raises ConfigError if the number of features of a tile is not side * side.
        """
        lengths = [len(item) for item in features]
        projected = self.project(torch.cat(list(features))).split(lengths)
        return [self._pack(item, *size) for item, size in zip(projected, image_sizes.tolist(), strict=True)]

    def _pack(self, item: Tensor, height: int, width: int) -> Tensor:
        whole, tiles, side = item[0], item[1:], self.config.side
        if not len(tiles):
            return torch.cat((whole, self.newline[None]))
        if tiles.shape[1] != side**2:
            raise ConfigError(f"anyres: expected {side} x {side} features per tile, found {tiles.shape[1]}")
        tile_grid = best_grid(width, height, self.config.tile, self.config.grids)
        grid = tiles.unflatten(1, (side, side)).unflatten(0, tile_grid).transpose(1, 2)
        rows, columns = self.config.unpadded(height, width)
        grid = grid.flatten(0, 1).flatten(1, 2)[rows, columns]
        newlines = self.newline.expand(len(grid), 1, -1)
        return torch.cat((whole, torch.cat((grid, newlines), 1).flatten(0, 1)))


def grids_of_pinpoints(pinpoints: Sequence[Sequence[int]], tile: int) -> tuple[Grid, ...]:
    """Grids of tiles from `image_grid_pinpoints`, (height, width) in pixels.

    Raises ConfigError if a side is not a multiple of the tile.
    """
    for height, width in pinpoints:
        if height % tile or width % tile:
            raise ConfigError(f"image_grid_pinpoints: expected multiples of {tile} pixels, found {[height, width]}")
    return tuple((height // tile, width // tile) for height, width in pinpoints)
