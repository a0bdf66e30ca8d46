"""Image transforms: one RGB picture -> float32 pixel_values [3, H, W] (tiles: see `tiles.py`).

resize and crop in 8 bit with Pillow -> to float, (x / 255 - mean) / std folded into one multiply-add

Pillow's resize is the reference that published models were trained with: it rounds to 8 bit and widens its
filter when it shrinks (antialiasing), which OpenCV and plain torch interpolation do not.

Rounding rules, which differ between libraries: - shorter side: the longer side becomes int(size * long /
short), truncated (torchvision and transformers alike); - centre crop of an odd rest: transformers takes the
floor of half, torchvision rounds half to even (3 -> 2). `crop_rounding` chooses; the default is "floor", as
published CLIP-like processors on the hub are run today; - EfficientNet takes (rest + 1) // 2 and crops before
it resizes (`CropThenResize`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image as Pillow

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
from polymodal.errors import ConfigError

MAX_CANVAS = 50_000_000  # pixels that a resize may hold on the way to a small crop


class ImageTransform(Protocol):
    """What the processor needs of a transform: a fixed output shape, and pixels of one picture."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, H, W]."""


@dataclass(frozen=True, kw_only=True)
class ShorterSideCrop:
    """Resize so that the shorter side is `size`, then cut the centre `crop` x `crop` (CLIP, arXiv 2103.00020)."""

    size: int = 224
    crop: int = 224
    interpolation: Interpolation = "bicubic"
    crop_rounding: Literal["floor", "even"] = "floor"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.size:
            raise ConfigError(f"crop must be in 1..size, found crop={self.crop} and size={self.size}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return 3, self.crop, self.crop

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, crop, crop]."""
        picture = as_picture(image)
        target = shorter_side_size(*picture.size, self.size)
        box = centre_box(*target, self.crop, self.crop_rounding)
        return to_tensor(resize_crop(picture, target, box, self.interpolation), self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class HalvedCrop:
    """Halve while the shorter side is twice `size` or more, resize it to `size`, cut the centre (ADM, arXiv 2105.05233;
    MM-Interleaved).  Halving is the mean of 2 x 2 pixels, which antialiases better than one bicubic step."""

    size: int = 224
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return 3, self.size, self.size

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, size, size]."""
        picture = as_picture(image)
        while min(picture.size) >= 2 * self.size:
            picture = resize(picture, (picture.width // 2, picture.height // 2), "box")
        scale = self.size / min(picture.size)
        target = round(picture.width * scale), round(picture.height * scale)
        box = centre_box(*target, self.size, "floor")
        return to_tensor(resize_crop(picture, target, box, "bicubic"), self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class Squash:
    """Resize to height x width whatever the aspect ratio (SigLIP, BLIP-2, ALBEF and others)."""

    height: int = 224
    width: int = 224
    interpolation: Interpolation = "bicubic"
    mean: Colour = HALF
    std: Colour = HALF

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return 3, self.height, self.width

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, height, width]."""
        picture = resize(as_picture(image), (self.width, self.height), self.interpolation)
        return to_tensor(picture, self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class PadToSquare:
    """Extend the shorter side with `colour` on both sides, then resize to size x size (LLaVA-1.5, arXiv 2310.03744).

    colour: 0..255 per channel; None is the mean, truncated to whole numbers, so that the border is near 0
    after normalisation.
    """

    size: int = 336
    colour: tuple[int, int, int] | None = None
    interpolation: Interpolation = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return 3, self.size, self.size

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, size, size]."""
        picture = as_picture(image)
        colour = tuple(int(255 * m) for m in self.mean) if self.colour is None else self.colour
        longest = max(picture.size)
        if longest**2 > MAX_CANVAS:  # 1 x 50000 would become 2.5e9 pixels: shrink such a strip before padding it
            width, height = (max(1, round(side * self.size / longest)) for side in picture.size)
            picture, longest = resize(picture, (width, height), self.interpolation), max(width, height)
        square = pad_centred(picture, (longest, longest), colour)
        return to_tensor(resize(square, (self.size, self.size), self.interpolation), self.mean, self.std)


@dataclass(frozen=True)
class Views:
    """One picture prepared in several ways, each under a name; see `stack_views`."""

    transforms: Mapping[str, ImageTransform]

    def __call__(self, image: Picture) -> dict[str, torch.Tensor]:
        """Image record, RGB picture or uint8 [H, W, 3] -> the tensor of each view."""
        picture = as_picture(image)  # decoded once
        return {name: transform(picture) for name, transform in self.transforms.items()}


@dataclass(frozen=True, kw_only=True)
class StretchToSquare:
    """Stretch the shorter side to the longer one, then resize to size x size: two roundings (mPLUG-Owl2)."""

    size: int = 448
    interpolation: Interpolation = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return 3, self.size, self.size

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, size, size]."""
        picture = as_picture(image)
        longest = max(picture.size)
        if longest**2 <= MAX_CANVAS:
            picture = resize(picture, (longest, longest), self.interpolation)
        return to_tensor(resize(picture, (self.size, self.size), self.interpolation), self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class CropThenResize:
    """Cut a centred square of size / (size + border) of the shorter side, then resize it (EfficientNet-Lite).

    The official evaluation uses border 32 (224 px: 0.875 of the side), bicubic, and (x - 127) / 128 on
    0..255, which is mean 127/255 and std 128/255 here.  TensorFlow's bicubic does not antialias, Pillow's
    does: on photos the values differ slightly, which the published PyTorch conversions accept too.
    """

    size: int = 224
    border: int = 32
    interpolation: Interpolation = "bicubic"
    mean: Colour = (127 / 255, 127 / 255, 127 / 255)
    std: Colour = (128 / 255, 128 / 255, 128 / 255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return 3, self.size, self.size

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, size, size]."""
        picture = as_picture(image)
        picture = picture.crop(fraction_box(*picture.size, self.size, self.border))
        return to_tensor(resize(picture, (self.size, self.size), self.interpolation), self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class SwappedChannels:
    """Blue, green, red before another transform: for models whose training read files with OpenCV and left it so."""

    transform: ImageTransform

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of every output."""
        return self.transform.shape

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> what the inner transform gives."""
        red, green, blue = as_picture(image).split()
        return self.transform(Pillow.merge("RGB", (blue, green, red)))


def stack_views(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What `Views` gave for each picture -> tensors [N, ...] by name."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def transform_frames(transform: ImageTransform, frames: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """Apply a transform to frames uint8 [F, H, W, 3]; returns video_values of one item, float32 [F, 3, H, W]."""
    return torch.stack([transform(frame) for frame in frames])


def shorter_side_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) after the shorter side is scaled to `size`; the longer side is truncated."""
    long = int(size * max(width, height) / min(width, height))
    return (size, long) if width <= height else (long, size)


def centre_box(width: int, height: int, crop: int, rounding: Literal["floor", "even"]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the centred crop x crop square; see the module docstring for the rounding."""
    left, top = ((rest // 2 if rounding == "floor" else round(rest / 2)) for rest in (width - crop, height - crop))
    return left, top, left + crop, top + crop


def fraction_box(width: int, height: int, size: int, border: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the square that EfficientNet cuts; at least one pixel."""
    side = max(1, int(size / (size + border) * min(width, height)))
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    return left, top, left + side, top + side


def resize_crop(
    image: Pillow.Image, target: tuple[int, int], box: tuple[int, int, int, int], interpolation: Interpolation
) -> Pillow.Image:
    """Resize to `target` (width, height) and cut `box` out of the result.

    Where the whole result would be huge (1 x 20000 at 224 is 224 x 4480000), only the area under the box is
    resized; its outermost pixels then lack their neighbours outside the box.
    """
    if target[0] * target[1] <= MAX_CANVAS:
        return resize(image, target, interpolation).crop(box)
    across, down = image.width / target[0], image.height / target[1]
    area = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return resize(image, (box[2] - box[0], box[3] - box[1]), interpolation, area)


def pad_centred(image: Pillow.Image, size: tuple[int, int], colour: tuple[int, ...]) -> Pillow.Image:
    """Paste the picture at the centre of a canvas of `size` (width, height); an odd rest goes right and below."""
    if image.size == size:
        return image
    canvas = Pillow.new("RGB", size, colour)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
