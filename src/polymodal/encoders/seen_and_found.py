"""Grid features with what two networks know of photographs in front of them: a classifier and a detector.

    pixel_values [N, 3, h, w]  the whole picture -> EfficientNetGrid -> [N, S, D]
    centre_values [N, 3, h, w] its central square -> the same network's classifier -> seen [N, C], probabilities
    scene_values [N, 3, H, W]  the whole picture, larger -> CenterNet -> found [N, K], the surest thing of each kind
    -> features [N, S, K + C + D], found and seen repeated for every cell

Why: a classifier of one thing in the middle does not know people, and names a kitchen after one of its pots; a detector
that was trained on ordinary scenes knows what is in them, but only 80 kinds.  The classifier gets the picture as it was
trained to: of 150 photographs of one thing it names 137 rightly from the central square, and 122 as the mean over the
cells of the padded picture.

Traps: the three are the same picture in other sizes and other pixels (`Views` in data/transforms.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymodal.encoders.centernet import STRIDE, CenterNetConfig
from polymodal.encoders.efficientnet_grid import EfficientNetGridConfig


@dataclass(frozen=True, kw_only=True)
class SeenAndFoundConfig:
    """`least`: share of the padded picture that a thing's box covers at least to be told of."""

    grid: EfficientNetGridConfig = field(default_factory=EfficientNetGridConfig)
    detector: CenterNetConfig = field(default_factory=CenterNetConfig)
    least: float = 0.02

    @property
    def width(self) -> int:
        return self.detector.kinds + self.grid.trunk.classes + self.grid.width

    @property
    def tokens(self) -> int:
        return self.grid.tokens

    def build(self) -> SeenAndFound:
        return SeenAndFound(self)


class SeenAndFound(nn.Module):
    """`pixel_values, centre_values, scene_values -> [N, tokens, width]`; children `grid` and `detector`."""

    def __init__(self, config: SeenAndFoundConfig):
        super().__init__()
        self.config = config
        self.grid = config.grid.build()
        self.detector = config.detector.build()

    def forward(self, pixel_values: Tensor, centre_values: Tensor, scene_values: Tensor) -> Tensor:
        with torch.autocast(pixel_values.device.type, enabled=False):  # bfloat16 knows no odd place beyond 256
            return self.encode(pixel_values, centre_values, scene_values)

    def encode(self, pixel_values: Tensor, centre_values: Tensor, scene_values: Tensor) -> Tensor:
        """The same at the precision of the weights."""
        features, trunk = self.grid(pixel_values), self.grid.trunk
        seen = trunk.classify(trunk.pool(trunk(centre_values))).softmax(-1)
        heat, sides = self.detector(scene_values)
        found = surest(heat, sides, self.config.least)
        facts = torch.cat([found.to(features), seen], dim=-1)
        return torch.cat([facts[:, None].expand(-1, features.shape[1], -1), features], dim=-1)


def surest(heat: Tensor, sides: Tensor, least: float) -> Tensor:
    """Heat [N, K, h, w] and sides [N, 4, h, w] -> [N, K], 0..1: the surest thing of each kind.

    least: the share of the picture that its box covers at least; a kind that has only smaller things gets 0.
    """
    height, width = (side * STRIDE for side in heat.shape[-2:])
    across = torch.arange(0, width, STRIDE, device=heat.device, dtype=sides.dtype)
    down = torch.arange(0, height, STRIDE, device=heat.device, dtype=sides.dtype)[:, None]
    left, top, right, bottom = sides.unbind(1)
    wide = (across + right).clamp(max=width) - (across - left).clamp(min=0)
    tall = (down + bottom).clamp(max=height) - (down - top).clamp(min=0)
    large = wide.clamp(min=0) / width * (tall.clamp(min=0) / height) >= least
    return (heat * large[:, None]).flatten(2).amax(-1)
