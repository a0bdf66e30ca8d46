"""A picture resized by its longer side, padded below or on the right to a square, as raw patches and which are real.

    picture -> /255 -> bilinear with antialiasing to `size` along the longer side -> zeros below or on the right
    -> (x - mean) / std, the border too -> patches row by row, each (row, column, channel)
    mask of a patch: whether its first pixel is the picture's

Unified-IO (arXiv 2206.08916).  Traps: resizing is done on numbers, not on 8-bit values, and both sides are cut down to
whole pixels; a strip that would be less than a pixel wide is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.normalise import Colour, Picture, as_picture
from polymodal.errors import MediaError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class PaddedPatches:
    """size: pixels along each side of the square, in patches of `patch` pixels."""

    size: int = 384
    patch: int = 16
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    def __call__(self, image: Picture) -> dict[str, Tensor]:
        """One picture -> `pixel_values` float32 [P, patch * patch * 3] and `image_input_masks` int64 [P]."""
        pixels = shrunk(as_picture(image), self.size)
        height, width = pixels.shape[1:]
        mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (self.mean, self.std))
        whole = (F.pad(pixels, (0, self.size - width, 0, self.size - height)) - mean) / std
        return {"pixel_values": patches_of(whole.float(), self.patch),
                "image_input_masks": patch_mask(height, width, self.size, self.patch)}  # fmt: skip


def shrunk(picture: Picture, size: int) -> Tensor:
    """float64 [3, h, w] in 0..1, the longer side `size`.  Raises MediaError for a strip of which nothing is left."""
    picture = as_picture(picture)
    scale = size / max(picture.size)
    width, height = (int(side * scale) for side in picture.size)
    return resized(picture, width, height)


def resized(picture: Picture, width: int, height: int) -> Tensor:
    """float64 [3, height, width] in 0..1.  Raises MediaError for a strip of which nothing is left."""
    values = torch.from_numpy(np.asarray(as_picture(picture)).copy()).permute(2, 0, 1).double() / 255
    if not height or not width:
        raise MediaError(f"a picture of {values.shape[2]} x {values.shape[1]} pixels is too narrow; the ratio may be "
                         f"{max(width, height)} at most")  # fmt: skip
    if tuple(values.shape[1:]) == (height, width):
        return values
    found = F.interpolate(values[None], (height, width), mode="bilinear", antialias=True, align_corners=False)
    return found[0].float().double()


def patches_of(values: Tensor, patch: int) -> Tensor:
    """[C, H, W] -> patches row by row [P, patch * patch * C], each (row, column, channel)."""
    rows = F.unfold(values[None], patch, stride=patch)[0].unflatten(0, (len(values), -1))
    return rows.permute(2, 1, 0).flatten(1)


def patch_mask(height: int, width: int, size: int, patch: int) -> Tensor:
    """int64 [P]: 1 where the first pixel of a patch lies inside height x width."""
    first = torch.arange(0, size, patch)
    return ((first < height)[:, None] & (first < width)).long().flatten()
