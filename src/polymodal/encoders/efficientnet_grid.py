"""EfficientNet-Lite with multi-level features: the maps of selected blocks, pooled to one small grid and concatenated.

    pixel_values [N, 3, 224, 224] -> maps of the top layer and of `taps` -> each average-pooled to `grid` x `grid`
    -> features [N, grid * grid, D], row-major; D = top width, then the widths of the taps in order

Why: the top layer of a network trained on photographs of 1,000 classes has lost much of what distinguishes drawings;
earlier layers keep it, and in a drawing the position of a part matters (Yosinski et al., arXiv 1411.1792).  Measured
with one ridge classifier over 1,173 emoji names, from Fluent drawings to Noto / OpenMoji drawings: top layer with
global pooling 45 % / 12 %; with blocks 7, 10, 14, 15 on a 3 x 3 grid added, 66 % / 31 %.

Trap: the tapped maps are outputs of linear bottlenecks (signed, no ReLU6), and their scale differs between layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.efficientnet import LITE0, EfficientNetConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class EfficientNetGridConfig:
    """`taps`: indices into `trunk.blocks`, ascending; `grid`: cells per side."""

    trunk: EfficientNetConfig = LITE0
    taps: tuple[int, ...] = (7, 10, 14, 15)
    grid: int = 3

    def __post_init__(self) -> None:
        if list(self.taps) != sorted(set(self.taps)) or not all(0 <= t < len(self.trunk.blocks) for t in self.taps):
            raise ConfigError(f"taps must be ascending within 0..{len(self.trunk.blocks) - 1}, found {self.taps}")

    @property
    def tap_width(self) -> int:
        """Channels from the taps; they are the last ones of each feature."""
        return sum(self.trunk.blocks[tap].out_width for tap in self.taps)

    @property
    def width(self) -> int:
        return self.trunk.width + self.tap_width

    @property
    def tokens(self) -> int:
        return self.grid * self.grid

    def build(self) -> EfficientNetGrid:
        return EfficientNetGrid(self)


class EfficientNetGrid(nn.Module):
    """`[N, 3, H, W] -> [N, tokens, width]`; child `trunk` is the whole EfficientNet."""

    def __init__(self, config: EfficientNetGridConfig):
        super().__init__()
        self.config = config
        self.trunk = config.trunk.build()

    def maps(self, pixel_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map of the top layer [N, width of the top, h, w], and those of the taps."""
        x = self.trunk.stem(pixel_values)
        taps: list[Tensor] = []
        for index, block in enumerate(self.trunk.blocks):
            x = block(x)
            if index in self.config.taps:
                taps.append(x)
        return self.trunk.top(x), taps

    def gathered(self, maps: list[Tensor]) -> Tensor:
        """Maps [N, channels, h, w] of any sizes -> [N, tokens, all channels], averaged to the grid."""
        pooled = [F.adaptive_avg_pool2d(x, self.config.grid) for x in maps]
        return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        top, taps = self.maps(pixel_values)
        return self.gathered([top, *taps])


def grid_keys(table: KeyTable) -> KeyTable:
    """`table` of an EfficientNet, with its targets under `trunk.`."""
    return table.prefixed(target="trunk.")
