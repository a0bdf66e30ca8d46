"""An image encoder that reads pictures cut into tiles, each tile on its own.

Flow
    pixel_values [N, T, C, H, W] (filled up with empty tiles) and image_sizes [N, 2] = (height, width) of the pictures
    -> the tiles a picture of that size really has -> encoder -> one tensor [t, S, D] for each picture

Trap: how many tiles are real is not written in the batch; it follows from the picture's size and the list of grids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from polymodal.data.tiles import Grid, best_grid
from polymodal.errors import PromptError


class TileEncoderConfig(Protocol):
    """The encoder of one tile: `build()` gives a module called as f(pixel_values [N, C, H, W]) -> [N, S, D]."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class TiledConfig:
    """`tile`: side of a tile in pixels; `grids`: the (rows, columns) a picture may be cut into."""

    encoder: TileEncoderConfig
    tile: int
    grids: tuple[Grid, ...]

    def build(self) -> "Tiled":
        """Build the encoder with fresh weights."""
        return Tiled(self)


class Tiled(nn.Module):
    """The encoder; see the module docstring for the flow."""

    def __init__(self, config: TiledConfig) -> None:
        super().__init__()
        self.config = config
        self.tile = config.encoder.build()

    def forward(self, pixel_values: Tensor, image_sizes: Tensor) -> list[Tensor]:
        """float [N, T, C, H, W], or the real tiles alone [sum of t, C, H, W], and int [N, 2] -> N features [t, S, D].

        Raises PromptError when there are fewer tiles than the sizes ask for.
        """
        wanted = tiles_of(image_sizes, self.config.tile, self.config.grids)
        if pixel_values.dim() == 5:
            pixel_values = torch.cat([item[:count] for item, count in zip(pixel_values, wanted, strict=True)])
        if len(pixel_values) != sum(wanted):
            raise PromptError(f"tiles: the picture sizes ask for {sum(wanted)} tiles, found {len(pixel_values)}")
        return list(self.tile(pixel_values).split(wanted))


def tiles_of(image_sizes: Tensor | Sequence[Sequence[int]], tile: int, grids: tuple[Grid, ...]) -> list[int]:
    """Tiles of each picture of size (height, width), the whole picture included."""
    sizes = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes
    found = [best_grid(int(width), int(height), tile, grids) for height, width in sizes]
    return [rows * columns + 1 for rows, columns in found]
