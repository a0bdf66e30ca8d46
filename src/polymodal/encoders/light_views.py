"""SPHINX-Tiny's encoders: two networks look at a picture of 512 pixels, or at one of 1024 and its quarters.

Paper: SPHINX-X (arXiv 2402.05935).

Flow
    pixel_values [N, 3, H, H] -> ConvNeXt on the picture, or on a small whole and four quarters as they are
                              -> DINOv2 on the same, made smaller until its grid of patches is ConvNeXt's
    -> both joined along their widths [N, V, 1 + S, D], in front the mean of ConvNeXt's and DINOv2's class token

Trap: whatever is resized is so in half precision, and DINOv2's quarters are cut out of a picture that was resized; the
one view of ConvNeXt is rounded to half precision too, its quarters are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.convnext import ConvNeXtConfig
from polymodal.encoders.dinov2 import DinoV2Config
from polymodal.encoders.mixed_views import by_imagenet, check_pixels, with_mean, with_quarters


@dataclass(frozen=True, kw_only=True)
class LightViewsConfig:
    """quarters: five views of a picture of twice the side."""

    convnext: ConvNeXtConfig
    dino: DinoV2Config
    quarters: bool = False

    @property
    def side(self) -> int:
        """Side of a view that DINOv2 looks at, in pixels."""
        patch = self.dino.vit.patch_size
        assert isinstance(patch, int)
        return self.convnext.grid * patch

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return self.convnext.image_size * (2 if self.quarters else 1)

    @property
    def views(self) -> int:
        return 5 if self.quarters else 1

    @property
    def tokens(self) -> int:
        """Features of a view."""
        return self.convnext.tokens + 1

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.convnext.width + self.dino.width

    def build(self) -> LightViews:
        return LightViews(self)


class LightViews(nn.Module):
    """`[N, 3, H, H] -> None, [N, V, 1 + S, D]`; children `convnext` and `dino`."""

    def __init__(self, config: LightViewsConfig) -> None:
        super().__init__()
        self.config = config
        self.convnext, self.dino = config.convnext.build(), config.dino.build()

    def forward(self, pixel_values: Tensor) -> tuple[None, Tensor]:
        """Pixels normalised by CLIP's statistics.  Raises ConfigError for another size."""
        check_pixels(pixel_values, self.config.image_size)
        large, small = self.config.convnext.image_size, self.config.side
        if self.config.quarters:
            seen = with_quarters(resized(pixel_values, large), pixel_values)
            looked = with_quarters(resized(pixel_values, small), resized(pixel_values, 2 * small))
        else:
            seen, looked = pixel_values.half().to(pixel_values)[:, None], resized(pixel_values, small)[:, None]
        found = with_mean(self.convnext(seen.flatten(0, 1))), self.dino(by_imagenet(looked.flatten(0, 1)))
        return None, torch.cat(found, -1).unflatten(0, seen.shape[:2])


def resized(pixels: Tensor, side: int) -> Tensor:
    """Pixels [N, 3, H, H] -> [N, 3, side, side], bicubic, in half precision."""
    return F.interpolate(pixels.half(), size=(side, side), mode="bicubic").to(pixels)
