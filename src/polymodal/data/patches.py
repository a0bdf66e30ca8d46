"""Pictures and videos of any resolution -> flat patches, for models that take them without a fixed size.

`MergedPatches` (Qwen2-VL, arXiv 2409.12191): sides rounded to whole merge blocks within bounds on the pixels -> patches
(block row, block column, row in block, column in block) of (channel, frame, row, column), and the grid
(frames, rows, columns).  `RowPatches` (Fuyu): shrunk to fit, never enlarged -> padded below and on the right to whole
patches -> patches row by row, of (row, column, channel).

Traps
- A picture is a video whose frames are all alike; an odd last frame of a video is repeated.
- Fuyu pads with the raw value 1 before normalising, which gives almost but not quite the darkest value.
- Python rounds halves to even, and so do the published sizes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.data.media import Video
from polymodal.data.normalise import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    Colour,
    Interpolation,
    Picture,
    as_picture,
    resize,
    to_tensor,
)
from polymodal.data.video import frames_at
from polymodal.errors import ConfigError, MediaError

MAX_RATIO = 200  # longer strips than this are refused, as published


@dataclass(frozen=True, kw_only=True)
class MergedPatches:
    """Sides in pixels, bounds in pixels of one frame; `frames`: pictures that one patch spans in time."""

    patch: int = 14
    merge: int = 2
    frames: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    interpolation: Interpolation = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def with_settings(self, settings: Mapping[str, Any]) -> "MergedPatches":
        """The same with bounds, mean and deviation of a published preprocessor_config.json, where it has them."""
        size = settings.get("size") or {}
        return replace(
            self,
            min_pixels=settings.get("min_pixels") or size.get("shortest_edge") or self.min_pixels,
            max_pixels=settings.get("max_pixels") or size.get("longest_edge") or self.max_pixels,
            mean=tuple(settings.get("image_mean") or self.mean),
            std=tuple(settings.get("image_std") or self.std),
        )

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) a picture of this size is read at."""
        tall, wide = smart_resize(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)
        return wide, tall

    def grid(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int]:
        """(frames, rows, columns) in patches."""
        wide, tall = self.size(width, height)
        return -(-frames // self.frames), tall // self.patch, wide // self.patch

    def __call__(self, image: Picture) -> dict[str, Tensor]:
        """One picture -> `patches` float32 [P, 3*F*p*p] and `grid` int64 [3]."""
        picture = as_picture(image)
        pixels = to_tensor(resize(picture, self.size(*picture.size), self.interpolation), self.mean, self.std)
        return self.flatten(pixels[None].expand(self.frames, -1, -1, -1))

    def flatten(self, pixels: Tensor) -> dict[str, Tensor]:
        """Frames float [F, 3, H, W], sides of whole blocks -> `patches` and `grid`."""
        missing = -len(pixels) % self.frames
        pixels = torch.cat((pixels, pixels[-1:].expand(missing, -1, -1, -1)))
        count, channels, height, width = pixels.shape
        side, block = self.patch, self.patch * self.merge
        split = pixels.reshape(
            count // self.frames, self.frames, channels, height // block, self.merge, side,
            width // block, self.merge, side,
        )  # fmt: skip
        rows = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * self.frames * side**2)
        return {"patches": rows, "grid": torch.tensor((count // self.frames, height // side, width // side))}

    def tokens(self, value: dict[str, Tensor]) -> int:
        """Features of one item after merging."""
        return int(value["grid"].prod()) // self.merge**2


@dataclass(frozen=True)
class ConcatPatches:
    """Collates items of patches: all patches one after another under `values`, their grids [N, ...] under `grid`."""

    values: str
    grid: str

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {
            self.values: torch.cat([item["patches"] for item in items]),
            self.grid: torch.stack([item["grid"] for item in items]),
        }


@dataclass(frozen=True, kw_only=True)
class MergedVideo:
    """Videos for `patches`: `fps` frames a second, an even number between `min_frames` and `max_frames` of them."""

    patches: MergedPatches = MergedPatches(min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    total_pixels: int = 24576 * 28 * 28

    def __call__(self, video: Video) -> dict[str, Tensor]:
        """One video -> `patches` float32 [P, 3*F*p*p] and `grid` int64 [3]."""
        available = frames_at(video.seconds, self.fps)
        count = self.count(available)
        clip = video.clip(fps=self.fps) if count == available else video.clip(frames=count)
        return self.of_frames(clip.frames)

    def count(self, available: int) -> int:
        """How many frames are read of a video that has `available` of them at `fps`."""
        step = self.patches.frames
        return max(-(-self.min_frames // step), min(available, self.max_frames) // step) * step

    def of_frames(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Frames uint8 [F, H, W, 3] -> `patches` and `grid`; the pixels of a frame shrink as their number grows."""
        rules = self.patches
        max_pixels = int(self.total_pixels / len(frames) * rules.frames)
        max_pixels = max(min(rules.max_pixels, max_pixels), int(1.05 * rules.min_pixels))
        factor = rules.patch * rules.merge
        tall, wide = smart_resize(frames.shape[1], frames.shape[2], factor, rules.min_pixels, max_pixels)
        pictures = [resize(as_picture(frame), (wide, tall), rules.interpolation) for frame in frames]
        return rules.flatten(torch.stack([to_tensor(picture, rules.mean, rules.std) for picture in pictures]))


@dataclass(frozen=True, kw_only=True)
class RowPatches:
    """`width`, `height`: what a picture must fit in; one that fits is left as it is."""

    patch: int = 30
    width: int = 1920
    height: int = 1080
    interpolation: Interpolation = "bilinear"
    mean: Colour = HALF
    std: Colour = HALF
    padding: int = 1

    def __post_init__(self) -> None:
        if self.width % self.patch or self.height % self.patch:
            raise ConfigError(f"row patches: {self.width} x {self.height} pixels are not whole patches of {self.patch}")

    def scale(self, width: int, height: int) -> float:
        """How much a picture shrinks, 1 at most: by its height in whole pixels, as the published processor says."""
        return self.size(width, height)[1] / height

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) a picture of this size is read at, before padding."""
        if width <= self.width and height <= self.height:
            return width, height
        scale = min(self.height / height, self.width / width)
        return max(1, int(width * scale)), max(1, int(height * scale))

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) in patches."""
        wide, tall = self.size(width, height)
        return -(-tall // self.patch), -(-wide // self.patch)

    def __call__(self, image: Picture) -> dict[str, Tensor]:
        """One picture -> `patches` float32 [rows*columns, p*p*3] and `grid` int64 [2] = (rows, columns)."""
        picture = as_picture(image)
        rows, columns = self.grid(*picture.size)
        pixels = np.asarray(resize(picture, self.size(*picture.size), self.interpolation))
        side = self.patch
        below, right = rows * side - pixels.shape[0], columns * side - pixels.shape[1]
        padded = np.pad(pixels, ((0, below), (0, right), (0, 0)), constant_values=self.padding)
        values = to_tensor(padded, self.mean, self.std)
        split = values.reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0)
        return {"patches": split.reshape(rows * columns, -1), "grid": torch.tensor((rows, columns))}


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) in whole multiples of `factor`, nearest to height and width within the bounds on the pixels.

    Raises MediaError for a strip that is more than MAX_RATIO times as long as wide.
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise MediaError(f"a picture of {width} x {height} pixels is too narrow; the ratio may be {MAX_RATIO} at most")
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall, wide = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    elif tall * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall, wide = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return tall, wide
