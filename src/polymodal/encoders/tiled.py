"""An image encoder for images split into tiles; each tile is encoded separately.

Flow
    pixel_values [N, T, C, H, W] (padded with empty tiles) and image_sizes [N, 2] = (height, width) in pixels
    -> the real tiles of each image -> encoder -> one tensor [t, S, D] per image

Trap: the batch does not store the number of real tiles; it follows from the image size and the list of grids.
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
    """`tile`: side of a tile in pixels; `grids`: the (rows, columns) that an image may be split into."""

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
        """float [N, T, C, H, W], or only the real tiles [sum of t, C, H, W], and int [N, 2] -> N features [t, S, D].

        Raises PromptError if the number of tiles does not match the image sizes.
        """
        counts = tile_counts(image_sizes, self.config.tile, self.config.grids)
        if pixel_values.dim() == 5:
            pixel_values = torch.cat([item[:count] for item, count in zip(pixel_values, counts, strict=True)])
        if len(pixel_values) != sum(counts):
            raise PromptError(f"tiles: the image sizes need {sum(counts)} tiles, found {len(pixel_values)}")
        return list(self.tile(pixel_values).split(counts))


def tile_counts(image_sizes: Tensor | Sequence[Sequence[int]], tile: int, grids: tuple[Grid, ...]) -> list[int]:
    """Number of tiles for each (height, width), the downscaled whole image included."""
    sizes = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes
    best = [best_grid(int(width), int(height), tile, grids) for height, width in sizes]
    return [rows * columns + 1 for rows, columns in best]
