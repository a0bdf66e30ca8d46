"""Cutting a large picture into tiles that an encoder of fixed size can read, plus the whole picture once.

`GridTiles` (LLaVA-1.6, "AnyRes"): choose a canvas from a list of grids -> resize inside it, keeping the
aspect ratio -> pad with black -> cut; the squashed whole picture comes first. `AspectTiles` (InternVL-1.5,
arXiv 2404.16821; GOT-OCR2): choose the grid of 1..max_tiles tiles whose aspect ratio is nearest -> squash
onto it -> cut; the squashed whole picture comes last, and only when there is more than one tile.

The number of tiles depends on the size of the picture alone: `tiles(width, height)` tells the processor how
many placeholders to write before any pixel is touched.

Traps: a grid is (rows, columns) everywhere here; published configurations list LLaVA's canvases as (height,
width) and InternVL's ratios as (columns, rows).  The black padding is put in before normalisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.normalise import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    Interpolation,
    Picture,
    as_picture,
    resize,
    to_tensor,
)
from polymodal.data.transforms import pad_centred
from polymodal.errors import ConfigError

Grid = tuple[int, int]
LLAVA_GRIDS: tuple[Grid, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


@dataclass(frozen=True, kw_only=True)
class GridTiles:
    """Tiles on the grid, out of a list, that keeps the most of the picture (LLaVA-1.6)."""

    tile: int = 336
    grids: tuple[Grid, ...] = LLAVA_GRIDS
    interpolation: Interpolation = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def __post_init__(self) -> None:
        if not self.grids or any(min(grid) < 1 for grid in self.grids) or self.tile < 1:
            raise ConfigError(f"GridTiles needs a positive tile and at least one grid (rows, columns), found {self}")

    def grid(self, width: int, height: int) -> Grid:
        """(rows, columns) for a picture of this size."""
        return best_grid(width, height, self.tile, self.grids)

    def tiles(self, width: int, height: int) -> int:
        """Tiles for a picture of this size, the whole picture included."""
        rows, columns = self.grid(width, height)
        return rows * columns + 1

    def shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(t, 3, tile, tile) for a picture of this size."""
        return self.tiles(width, height), 3, self.tile, self.tile

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [t, 3, tile, tile], the whole picture first."""
        picture = as_picture(image)
        rows, columns = self.grid(*picture.size)
        canvas = columns * self.tile, rows * self.tile
        fitted = resize(picture, fit_inside(*picture.size, *canvas), self.interpolation)
        whole = resize(picture, (self.tile, self.tile), self.interpolation)
        pieces = cut(np.asarray(pad_centred(fitted, canvas, (0, 0, 0))), self.tile)
        return _stack([np.asarray(whole), *pieces], self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class SizedTiles:
    """The same tiles with the size of the picture, which a model needs to lay them out again."""

    tiles: GridTiles

    def with_settings(self, settings: Mapping[str, Any]) -> "SizedTiles":
        """The same with mean and deviation of a published preprocessor_config.json, where it has them."""
        mean, std = (tuple(settings.get(f"image_{name}") or getattr(self.tiles, name)) for name in ("mean", "std"))
        return SizedTiles(tiles=replace(self.tiles, mean=mean, std=std))

    def __call__(self, image: Picture) -> dict[str, torch.Tensor]:
        """Image record or RGB picture -> `tiles` float32 [t, 3, tile, tile], `size` int64 [2] = (height, width)."""
        picture = as_picture(image)
        return {"tiles": self.tiles(picture), "size": torch.tensor((picture.height, picture.width))}


def pad_tiles(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collates: `pixel_values` [N, T, 3, tile, tile], zero tiles behind the real ones, and `image_sizes` [N, 2]."""
    tiles = pad_sequence([item["tiles"] for item in items], batch_first=True)
    return {"pixel_values": tiles, "image_sizes": torch.stack([item["size"] for item in items])}


@dataclass(frozen=True, kw_only=True)
class AspectTiles:
    """Tiles on the grid of min_tiles..max_tiles tiles whose aspect ratio is nearest (InternVL-1.5)."""

    tile: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    interpolation: Interpolation = "bicubic"
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.min_tiles <= self.max_tiles or self.tile < 1:
            raise ConfigError(f"AspectTiles needs 1 <= min_tiles <= max_tiles and a positive tile, found {self}")

    def grid(self, width: int, height: int) -> Grid:
        """(rows, columns) for a picture of this size."""
        return nearest_grid(width, height, self.tile, self.min_tiles, self.max_tiles)

    def tiles(self, width: int, height: int) -> int:
        """Tiles for a picture of this size, the whole picture included where it is added."""
        rows, columns = self.grid(width, height)
        return rows * columns + (1 if self.thumbnail and rows * columns > 1 else 0)

    def shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(t, 3, tile, tile) for a picture of this size."""
        return self.tiles(width, height), 3, self.tile, self.tile

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [t, 3, tile, tile], the whole picture last."""
        picture = as_picture(image)
        rows, columns = self.grid(*picture.size)
        canvas = resize(picture, (columns * self.tile, rows * self.tile), self.interpolation)
        pieces = cut(np.asarray(canvas), self.tile)
        if self.thumbnail and len(pieces) > 1:
            pieces.append(np.asarray(resize(picture, (self.tile, self.tile), self.interpolation)))
        return _stack(pieces, self.mean, self.std)


def best_grid(width: int, height: int, tile: int, grids: tuple[Grid, ...]) -> Grid:
    """The grid that shows the most pixels of a picture, then the one that wastes the fewest; first of equals."""

    def score(grid: Grid) -> tuple[int, int]:
        rows, columns = grid
        scale = min(columns * tile / width, rows * tile / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - rows * columns * tile * tile

    return max(grids, key=score)


def fit_inside(width: int, height: int, canvas_width: int, canvas_height: int) -> tuple[int, int]:
    """(width, height) of the picture scaled to touch the canvas on one axis; the other is rounded up."""
    across, down = canvas_width / width, canvas_height / height
    if across < down:
        return canvas_width, min(int(np.ceil(height * across)), canvas_height)
    return min(int(np.ceil(width * down)), canvas_width), canvas_height


@lru_cache(maxsize=64)
def grids_of(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """All grids of min_tiles to max_tiles tiles, fewest tiles first, then fewest columns first."""
    every = [
        (rows, columns)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if rows * columns >= min_tiles
    ]
    return tuple(sorted(every, key=lambda grid: grid[0] * grid[1]))


def nearest_grid(width: int, height: int, tile: int, min_tiles: int, max_tiles: int) -> Grid:
    """The grid whose aspect ratio is nearest; of equals, the larger while it is below twice the picture's area."""
    best, smallest = (1, 1), float("inf")
    for rows, columns in grids_of(min_tiles, max_tiles):
        difference = abs(width / height - columns / rows)
        large_enough = width * height > 0.5 * tile * tile * rows * columns
        if difference < smallest or (difference == smallest and large_enough):
            best, smallest = (rows, columns), difference
    return best


def cut(canvas: np.ndarray, tile: int) -> list[np.ndarray]:
    """Tiles [tile, tile, 3] of a canvas [rows * tile, columns * tile, 3], row by row."""
    rows, columns = canvas.shape[0] // tile, canvas.shape[1] // tile
    grid = canvas.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
    return list(grid.reshape(rows * columns, tile, tile, 3))


def _stack(pieces: list[np.ndarray], mean: Colour, std: Colour) -> torch.Tensor:
    return torch.stack([to_tensor(piece, mean, std) for piece in pieces])
