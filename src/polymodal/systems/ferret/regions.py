"""Regions of pictures as Ferret reads them: numbers in the text, and points that are sampled inside.

    pm.array([x, y] | [left, top, right, bottom] in 0..1 | mask [H, W], "region")
    -> "[x1, y1, x2, y2] <region_fea>" and 512 points of the picture before it

Traps: numbers count in 1000ths of either side, cut to whole ones; a point is a window of 11 x 11 pixels; a mask is
written as the box around it; points are drawn by a generator that always starts alike, officially anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from polymodal.data.coordinates import CoordinateText, Place
from polymodal.data.media import Array, Image, Media
from polymodal.data.messages import Message, Part
from polymodal.data.template import Words, Written
from polymodal.data.transforms import ImageTransform
from polymodal.errors import PromptError

PLACES = CoordinateText(comma=", ", decimals=0, scale=1000, squared=False)
SPAN = 5  # pixels of the window on either side of a point


@dataclass(frozen=True)
class Region(Media):
    """A region with the picture that it is in."""

    numbers: Array
    picture: Image
    modality: str = "region"


def with_pictures(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation whose regions know the last picture before them; PromptError where there is none."""
    picture: Image | None = None
    found = []
    for message in messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, Image):
                picture = part
            if isinstance(part, Array):
                if picture is None:
                    raise PromptError("messages: a region needs a picture before it; found none")
                part = Region(part, picture)
            parts.append(part)
        found.append(replace(message, parts=tuple(parts)))
    return tuple(found)


@dataclass(frozen=True)
class RegionValues:
    """A region -> its picture's pixels, its points float32 [count, 2], and the place that is written."""

    pixels: ImageTransform
    count: int

    def __call__(self, region: Region) -> dict[str, Tensor]:
        """Raises PromptError for numbers that are no place of the picture."""
        size = region.picture.picture.size
        place, inside = _inside(np.asarray(region.numbers.values), size)
        points = sampled(inside, self.count) / np.array(size)
        values = {"region_pixels": self.pixels(region.picture), "region_points": torch.from_numpy(points).float()}
        return {**values, "place": torch.tensor(place, dtype=torch.float64), "size": torch.tensor(size)}


def _inside(numbers: np.ndarray, size: tuple[int, int]) -> tuple[Place, np.ndarray]:
    """The place that is written, and the bounds (left, top, right, bottom) of its pixels or those of a mask, [n, 2]."""
    width, height = size
    if numbers.ndim == 2:
        if numbers.shape != (height, width):
            raise PromptError(f"region: expected a mask of the picture's {height} x {width}, found {numbers.shape}")
        rows, columns = np.nonzero(numbers)
        if not len(rows):
            raise PromptError("region: the mask is empty; mark one pixel at least")
        box = (columns.min() / width, rows.min() / height, columns.max() / width, rows.max() / height)
        return tuple(map(float, box)), np.stack((columns, rows), 1)
    place = tuple(float(x) for x in numbers.ravel())
    PLACES.write([place], size)  # refuses what is no place of the picture
    if len(place) == 2:
        x, y = int(place[0] * width), int(place[1] * height)
        bounds = (max(0, x - SPAN), max(0, y - SPAN), min(width, x + SPAN + 1), min(height, y + SPAN + 1))
    else:
        left, top, right, bottom = (int(share * size[i % 2]) for i, share in enumerate(place))
        bounds = (left, top, min(width, right + 1), min(height, bottom + 1))
    spread = np.meshgrid(np.arange(bounds[0], bounds[2]), np.arange(bounds[1], bounds[3]), indexing="ij")
    inside = np.stack([each.ravel() for each in spread], 1)
    return place, inside if len(inside) else np.array([[min(bounds[0], width - 1), min(bounds[1], height - 1)]])


def sampled(pixels: np.ndarray, count: int) -> np.ndarray:
    """`count` of the pixels [n, 2] in any order, all of them and some again where there are fewer."""
    random = np.random.default_rng(0)
    if len(pixels) >= count:
        return pixels[random.choice(len(pixels), count, replace=False)]
    again = random.integers(0, len(pixels), count - len(pixels))
    return random.permutation(np.concatenate((pixels, pixels[again])))


def written(values: Mapping[str, Tensor]) -> Sequence[Written]:
    """What stands in front of a region's token."""
    width, height = values["size"].tolist()
    return (Words(text=f"{PLACES.write([tuple(values['place'].tolist())], (width, height))} "),)


def collate(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Items of a batch -> region_pixels [N, 3, H, W], region_points [N, count, 2]."""
    return {name: torch.stack([item[name] for item in items]) for name in ("region_pixels", "region_points")}
