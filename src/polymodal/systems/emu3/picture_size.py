"""Pictures of any proportions for codecs that take them as they are: sides in whole multiples of a code's pixels.

    picture -> nearest (height, width) in multiples of `factor` within the bounds on pixels -> resized, normalised
    pictures of a batch -> padded right and below with zeros, with their sizes

Emu3 (arXiv 2409.18869).  Trap: padding is zero after the normalisation, and its codes are cut away by `image_sizes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.hf_image import RESAMPLE
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD, Colour, Interpolation, Picture, as_picture, resize
from polymodal.data.patches import smart_resize
from polymodal.data.processor import Modality
from polymodal.data.template import Special, Words
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AnySizeTransform:
    """`factor`: pixels of a code along each side; None keeps the picture's size.  scale: on 8-bit values, first."""

    factor: int | None = 8
    min_pixels: int = 512 * 512
    max_pixels: int = 1024 * 1024
    interpolation: Interpolation = "bicubic"
    scale: float = 1 / 255
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def __call__(self, image: Picture) -> Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, H', W']."""
        picture = as_picture(image)
        if self.factor is not None:
            height, width = smart_resize(picture.height, picture.width, self.factor, self.min_pixels, self.max_pixels)
            picture = resize(picture, (width, height), self.interpolation)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        scale = torch.tensor([self.scale / s for s in self.std], dtype=torch.float32)[:, None, None]
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)])[:, None, None]
        return pixels * scale + shift

    def picture(self, pixels: Tensor) -> Tensor:
        """The way back: float [3, H, W] -> uint8 [H, W, 3]."""
        mean, std = (torch.tensor(c, device=pixels.device)[:, None, None] for c in (self.mean, self.std))
        return ((pixels * std + mean) / self.scale).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def padded(items: Sequence[Tensor]) -> dict[str, Tensor]:
    """Pictures [3, h_i, w_i] -> `pixel_values` [N, 3, H, W] and `image_sizes` int64 [N, 2]."""
    height, width = (max(item.shape[side] for item in items) for side in (1, 2))
    pixels = torch.stack([F.pad(item, (0, width - item.shape[2], 0, height - item.shape[1])) for item in items])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([item.shape[1:] for item in items])}


def row_ids(pixels: Tensor, factor: int) -> int:
    """Ids of a picture [3, H, W]: its codes, and a row end for each of their rows."""
    return pixels.shape[1] // factor * (pixels.shape[2] // factor + 1)


def size_in_words(pixels: Tensor, factor: int, around: tuple[str, str]) -> tuple[Special | Words, ...]:
    """around[0], "h*w" in codes, around[1]."""
    height, width = pixels.shape[1] // factor, pixels.shape[2] // factor
    return Special(name=around[0]), Words(text=f"{height}*{width}"), Special(name=around[1])


def announced(
    transform: AnySizeTransform, factor: int, placeholder: str, around: tuple[str, str], tail: Sequence[str]
) -> Modality:
    """A picture announced by its size in codes: around[0], "h*w", around[1], h rows of w + 1 placeholders, the tail.

    factor: pixels of a code; the last placeholder of a row is its row end.
    """
    return Modality(
        name="image",
        placeholder=placeholder,
        transform=transform,
        tokens=partial(row_ids, factor=factor),
        before=partial(size_in_words, factor=factor, around=around),
        after=tuple(Special(name=name) for name in tail),
        collate=padded,
    )


def transform_of(settings: Mapping[str, Any]) -> AnySizeTransform:
    """The transform of a preprocessor_config.json of Emu3ImageProcessor; absent keys take the library's defaults.

    Raises ConfigError for a resampling that is not supported.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    resample = given.get("resample", 3)
    if resample not in RESAMPLE:
        raise ConfigError(f"picture settings: resample {resample!r} is not supported; expected 0 to 3")
    normalise, plain = given.get("do_normalize", True), AnySizeTransform()
    return AnySizeTransform(
        factor=given.get("spatial_factor", 8) if given.get("do_resize", True) else None,
        min_pixels=given.get("min_pixels", plain.min_pixels),
        max_pixels=given.get("max_pixels", plain.max_pixels),
        interpolation=RESAMPLE[resample],
        scale=given.get("rescale_factor", plain.scale) if given.get("do_rescale", True) else 1.0,
        mean=_colour(given.get("image_mean", plain.mean)) if normalise else (0.0, 0.0, 0.0),
        std=_colour(given.get("image_std", plain.std)) if normalise else (1.0, 1.0, 1.0),
    )


def _colour(value: Any) -> Colour:
    red, green, blue = (value,) * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)
