"""SPHINX's encoders: four networks look at a picture, and in the larger models at its quarters too.

Papers: SPHINX (arXiv 2311.07575), SPHINX-X (2402.05935).

Flow
    pixel_values [N, 3, H, H] -> views [N * V, 3, h, h]: the picture, V = 1; or made small, and its quarters, V = 5
    each view -> EVA ViT-g                                                   -> for the Q-Former    [N, V, S', D']
              -> CLIP ViT-L | ConvNeXt | DINOv2, joined along their widths   -> mixed               [N, V, 1 + S, D]

Traps
- ConvNeXt sees the view enlarged to its own size by the nearest pixel, and rounded to half precision; each of its
  features stands for 2 x 2 patches, and their mean for the class token.
- CLIP's final norm is applied to all tokens; DINOv2 gets the pixels by ImageNet's statistics.
- The small whole of the larger models is resized in half precision too; the quarters are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders import clip_vit, dinov2
from polymodal.encoders.convnext import ConvNeXtConfig
from polymodal.encoders.dinov2 import DinoV2Config
from polymodal.encoders.vit import ViTConfig, sides
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MixedViewsConfig:
    """asked: the encoder that a Q-Former looks at.  quarters: five views of a picture of twice the side."""

    asked: ViTConfig
    clip: ViTConfig
    convnext: ConvNeXtConfig
    dino: DinoV2Config
    quarters: bool = False

    def __post_init__(self) -> None:
        grid, side = self.clip.grid, self.side
        others = (sides(self.asked.image_size)[0], self.dino.vit.patch_size, 2 * self.convnext.grid)
        if others != (side, side // grid, grid):
            raise ConfigError(
                f"mixed views: CLIP's grid of {grid} on {side} pixels needs an encoder of {side} pixels, DINOv2 with "
                f"patches of {side // grid} and a ConvNeXt with a grid of {grid / 2:g}; found {others[0]}, {others[1]} "
                f"and {self.convnext.grid}"
            )

    @property
    def side(self) -> int:
        """Side of a view in pixels."""
        return sides(self.clip.image_size)[0]

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return self.side * (2 if self.quarters else 1)

    @property
    def views(self) -> int:
        return 5 if self.quarters else 1

    @property
    def tokens(self) -> int:
        """Mixed features of a view."""
        return self.clip.patches + 1

    @property
    def width(self) -> int:
        """Width of the mixed features."""
        return self.clip.width + self.convnext.width + self.dino.width

    def build(self) -> MixedViews:
        return MixedViews(self)


class MixedViews(nn.Module):
    """`[N, 3, H, H] -> [N, V, S', D'], [N, V, 1 + S, D]`; children `asked`, `clip`, `convnext`, `dino`."""

    def __init__(self, config: MixedViewsConfig) -> None:
        super().__init__()
        self.config = config
        self.asked, self.clip = config.asked.build(), config.clip.build()
        self.convnext, self.dino = config.convnext.build(), config.dino.build()

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels normalised by CLIP's statistics.  Raises ConfigError for another size."""
        check_pixels(pixel_values, self.config.image_size)
        views = pixel_values[:, None]
        if self.config.quarters:
            side = self.config.side
            small = F.interpolate(pixel_values.half(), size=(side, side), mode="bicubic").to(pixel_values)
            views = with_quarters(small, pixel_values)
        flat = views.flatten(0, 1)
        mixed = torch.cat((self.clip(flat), self.spread(flat), self.dino(by_imagenet(flat))), -1)
        return tuple(each.unflatten(0, views.shape[:2]) for each in (self.asked(flat), mixed))  # type: ignore[return-value]

    def spread(self, pixels: Tensor) -> Tensor:
        """ConvNeXt's features [n, 1 + S, C], each for four patches, their mean in front."""
        config = self.config.convnext
        enlarged = F.interpolate(pixels.half(), size=(config.image_size,) * 2).to(pixels)
        planes = self.convnext(enlarged).unflatten(1, (config.grid, config.grid))
        return with_mean(planes.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2))


def check_pixels(pixels: Tensor, size: int) -> None:
    """Raises ConfigError unless they are pictures [N, 3, size, size]."""
    if tuple(pixels.shape[1:]) != (3, size, size):
        raise ConfigError(f"mixed views: expected [N, 3, {size}, {size}], found {list(pixels.shape)}")


def with_quarters(small: Tensor, pixels: Tensor) -> Tensor:
    """A small whole [N, 3, h, h] and the quarters of a picture of twice its side -> [N, 5, 3, h, h], row by row."""
    side = small.shape[-1]
    halves = (slice(None, side), slice(side, None))
    return torch.stack((small, *(pixels[..., rows, columns] for rows in halves for columns in halves)), 1)


def with_mean(features: Tensor) -> Tensor:
    """[n, S, D] -> [n, 1 + S, D], their mean in the place of a class token."""
    return torch.cat((features.mean(1, keepdim=True), features), 1)


def by_imagenet(pixels: Tensor) -> Tensor:
    """Pixels normalised by CLIP's statistics -> by those of DINOv2."""
    table = (clip_vit.PIXEL_MEAN, clip_vit.PIXEL_STD, dinov2.PIXEL_MEAN, dinov2.PIXEL_STD)
    mean, std, mean_of, std_of = pixels.new_tensor(table)[:, :, None, None]
    return (pixels * std + mean - mean_of) / std_of
