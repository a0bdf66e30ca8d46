"""The picture transform that a published `preprocessor_config.json` describes, in the transformers library's words.

    resize (to the shorter side or to height x width) -> centre crop -> * rescale_factor -> (x - mean) / std

Traps: `size` is a number, {"shortest_edge"} or {"height", "width"}, and what a bare number means differs between
processors (`square`); a crop larger than the picture is padded with black before the colours are shifted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from polymodal.data.normalise import CLIP_MEAN, CLIP_STD, Colour, Interpolation, Picture, as_picture, resize
from polymodal.data.transforms import MAX_CANVAS, pad_centred, resize_crop, shorter_side_size
from polymodal.errors import ConfigError, MediaError

RESAMPLE: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

CLIP: dict[str, Any] = {
    "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "do_normalize": True,
    "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
}  # fmt: skip
"""Defaults of CLIPImageProcessor."""
VIT: dict[str, Any] = {
    "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 2, "do_rescale": True, "do_normalize": True,
    "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5),
}  # fmt: skip
"""Defaults of ViTImageProcessor."""
BEIT: dict[str, Any] = {**VIT, "resample": 3, "crop_size": {"height": 224, "width": 224}}
"""Defaults of BeitImageProcessor."""


@dataclass(frozen=True, kw_only=True)
class PublishedTransform:
    """`size`: (height, width), or one number for the shorter side; None: as it is.  `crop`: (height, width)."""

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bicubic"
    factor: float = 1 / 255
    mean: Colour = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output; raises ConfigError when it depends on the picture."""
        fixed = self.crop or self.size
        if not isinstance(fixed, tuple):
            raise ConfigError("this transform keeps the picture's proportions: it has no fixed shape")
        return 3, *fixed

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, H, W]."""
        picture = as_picture(image)
        target = picture.size
        if isinstance(self.size, int):
            target = shorter_side_size(*picture.size, self.size)
        elif self.size is not None:
            target = self.size[1], self.size[0]
        if self.crop is None:
            picture = resize(picture, target, self.interpolation)
        else:
            picture = _cropped(picture, target, self.crop, self.interpolation)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        scale = torch.tensor([self.factor / s for s in self.std], dtype=torch.float32)[:, None, None]
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)])[:, None, None]
        return pixels * scale + shift


@dataclass(frozen=True, kw_only=True)
class Squared:
    """A picture padded to a square with a colour, 0..255, and then transformed (LLaVA's `do_pad`)."""

    inner: PublishedTransform
    colour: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return self.inner.shape

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, H, W]."""
        picture = as_picture(image)
        side = max(picture.size)
        if side**2 > MAX_CANVAS:
            raise MediaError(f"a picture of {picture.width} x {picture.height} pixels is too large to pad to a square")
        return self.inner(pad_centred(picture, (side, side), self.colour))


def _cropped(
    picture: Pillow.Image, target: tuple[int, int], crop: tuple[int, int], interpolation: Interpolation
) -> Pillow.Image:
    """The centre of the resized picture, black around it where it is smaller than the crop."""
    (width, height), (down, across) = target, crop
    left, top = (width - across) // 2, (height - down) // 2
    if left >= 0 and top >= 0:
        return resize_crop(picture, target, (left, top, left + across, top + down), interpolation)
    canvas_width, canvas_height = max(width, across), max(height, down)
    pad_left, pad_top = math.ceil((canvas_width - width) / 2), math.ceil((canvas_height - height) / 2)
    canvas = Pillow.new("RGB", (canvas_width, canvas_height))
    canvas.paste(resize(picture, target, interpolation), (pad_left, pad_top))
    left, top = left + pad_left, top + pad_top
    return canvas.crop((max(0, left), max(0, top), max(0, left) + across, max(0, top) + down))


def transform_of(settings: Mapping[str, Any], defaults: Mapping[str, Any], square: bool = True) -> PublishedTransform:
    """The transform of a preprocessor_config.json; absent keys take `defaults` (CLIP, VIT, BEIT).

    square: what a bare number as `size` means.  Raises ConfigError for settings that are not supported.
    """
    merged = {**defaults, **{name: value for name, value in settings.items() if value is not None}}
    if merged.get("do_pad"):
        raise ConfigError("picture settings: do_pad is not supported")
    if merged.get("do_resize") and merged.get("resample") not in RESAMPLE:
        raise ConfigError(f"picture settings: resample {merged.get('resample')!r} is not supported; expected 0 to 3")
    normalise = bool(merged.get("do_normalize"))
    return PublishedTransform(
        size=_size(merged["size"], square) if merged.get("do_resize") else None,
        crop=_pair(merged["crop_size"]) if merged.get("do_center_crop") else None,
        interpolation=RESAMPLE.get(merged.get("resample", 3), "bicubic"),
        factor=merged.get("rescale_factor", 1 / 255) if merged.get("do_rescale") else 1.0,
        mean=_colour(merged["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=_colour(merged["image_std"]) if normalise else (1.0, 1.0, 1.0),
    )


def squared(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> PublishedTransform | Squared:
    """`transform_of` where `do_pad` means to pad to a square with the mean colour first, as LLaVA's processor does."""
    inner = transform_of({**settings, "do_pad": None}, defaults)
    if not settings.get("do_pad"):
        return inner
    return Squared(inner=inner, colour=tuple(int(mean * 255) for mean in inner.mean))


def _size(size: Any, square: bool) -> tuple[int, int] | int:
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, Mapping) and size.get("shortest_edge") and not size.get("longest_edge"):
        return int(size["shortest_edge"])
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    """(height, width) of a number, a pair or {"height", "width"}."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        if not size.get("height") or not size.get("width"):
            raise ConfigError(f"picture settings: size {dict(size)} is not supported; expected height and width")
        return int(size["height"]), int(size["width"])
    height, width = size
    return int(height), int(width)


def _colour(value: Any) -> Colour:
    if isinstance(value, int | float):
        return (float(value),) * 3
    red, green, blue = value
    return float(red), float(green), float(blue)
