"""EfficientNet-Lite seen at several depths: maps of chosen blocks, averaged onto one small grid, side by side.

    pixel_values [N, 3, 224, 224] -> maps of the top layer and of `taps` -> mean over a `grid` x `grid` of cells each
    -> features [N, grid * grid, D], row-major; D = top width, then the widths of the taps in order

Why: the top layer of a network trained on photographs of 1,000 things has forgotten much of what tells drawings
apart, earlier layers have not, and where a part lies matters in a drawing (Yosinski et al., arXiv 1411.1792).  Measured
with one ridge classifier of 1,173 emoji names from Fluent drawings to Noto / OpenMoji drawings: top layer averaged
45 % / 12 %, blocks 7, 10, 14, 15 on a 3 x 3 grid beside it 66 % / 31 %.

Trap: the maps of the taps are linear bottlenecks (signed, not ReLU6), of unequal scale from layer to layer.
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
    """`taps`: indices into `trunk.blocks`, ascending; `grid`: cells a side."""

    trunk: EfficientNetConfig = LITE0
    taps: tuple[int, ...] = (7, 10, 14, 15)
    grid: int = 3

    def __post_init__(self) -> None:
        if list(self.taps) != sorted(set(self.taps)) or not all(0 <= t < len(self.trunk.blocks) for t in self.taps):
            raise ConfigError(f"taps must ascend within 0..{len(self.trunk.blocks) - 1}, found {self.taps}")

    @property
    def tap_width(self) -> int:
        """Channels that come from the taps, the last ones of each feature."""
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
    """``[N, 3, H, W] -> [N, tokens, width]``; child `trunk` is the whole EfficientNet."""

    def __init__(self, config: EfficientNetGridConfig):
        super().__init__()
        self.config = config
        self.trunk = config.trunk.build()

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.trunk.stem(pixel_values)
        cells: list[Tensor] = []
        for index, block in enumerate(self.trunk.blocks):
            x = block(x)
            if index in self.config.taps:
                cells.append(F.adaptive_avg_pool2d(x, self.config.grid))
        cells.insert(0, F.adaptive_avg_pool2d(self.trunk.top(x), self.config.grid))
        return torch.cat(cells, dim=1).flatten(2).transpose(1, 2)


def grid_keys(table: KeyTable) -> KeyTable:
    """The key table of the trunk for the trunk inside this encoder."""
    return table.prefixed(target="trunk.")
