"""What the U-Nets of Composable Diffusion are made of: layers of grids, and the same for a vector (CoDi).

GridLayers(frames)     convolutions; with frames, `FrameStep` behind each block
VectorLayers(places)   linears over all C * places numbers of [N, C, places, 1]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.generators.conv_stack import Upsample
from polymodal.generators.unet import TimedBlock, UNetSizes
from polymodal.nn.frame_mixing import FrameMixing

SHIFTED = 8  # groups of channels, the i-th of which comes from i frames before
RATE = 4  # frames a second, as the published code always says


class LayerKind(Protocol):
    """Makes the layers of a U-Net.  ranks: dimensions that latents may have."""

    @property
    def ranks(self) -> tuple[int, ...]: ...

    def enter(self, latent: int, width: int) -> nn.Module: ...

    def block(self, width: int, out: int, sizes: UNetSizes) -> nn.Module: ...

    def film(self, width: int) -> nn.Module | None: ...

    def shrink(self, width: int) -> nn.Module: ...

    def grow(self, width: int) -> nn.Module: ...

    def leave(self, width: int, out: int) -> nn.Module: ...


@dataclass(frozen=True)
class GridLayers:
    """frames: whether videos go through too."""

    frames: bool = False

    @property
    def ranks(self) -> tuple[int, ...]:
        return (4, 5) if self.frames else (4,)

    def enter(self, latent: int, width: int) -> nn.Module:
        return nn.Conv2d(latent, width, 3, padding=1)

    def block(self, width: int, out: int, sizes: UNetSizes) -> nn.Module:
        return TimedBlock(width, out, sizes)

    def film(self, width: int) -> nn.Module | None:
        return FrameStep(width) if self.frames else None

    def shrink(self, width: int) -> nn.Module:
        return nn.Conv2d(width, width, 3, stride=2, padding=1)

    def grow(self, width: int) -> nn.Module:
        return Upsample(width)

    def leave(self, width: int, out: int) -> nn.Module:
        return nn.Conv2d(width, out, 3, padding=1)


class FrameStep(nn.Module):
    """Frames see each other, then channels come from frames before.  `[N * F, C, h, w], F -> [N * F, C, h, w]`"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixing = FrameMixing(width, 8, width // 4, rate=RATE, shifts=True)
        self.norm = nn.GroupNorm(32, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        count, channels, height, width = x.shape
        places = x.reshape(-1, frames, channels, height * width).permute(0, 3, 1, 2).flatten(0, 1)
        places = self.mixing(places).reshape(-1, height * width, frames, channels)
        x = places.permute(0, 2, 3, 1).reshape(count, channels, height, width)
        y = self.conv(F.silu(self.norm(x))).unflatten(0, (-1, frames))
        groups = [F.pad(y_i, (0, 0) * 3 + (i, 0))[:, :frames] for i, y_i in enumerate(y.chunk(SHIFTED, 2))]
        return x + torch.cat(groups, 2).flatten(0, 1)


@dataclass(frozen=True)
class VectorLayers:
    """places: numbers that each channel has."""

    places: int = 4

    @property
    def ranks(self) -> tuple[int, ...]:
        return (2,)

    def enter(self, latent: int, width: int) -> nn.Module:
        return VectorLinear((latent, 1), (width, self.places))

    def block(self, width: int, out: int, sizes: UNetSizes) -> nn.Module:
        return VectorBlock((width, out), self.places, sizes)

    def film(self, width: int) -> nn.Module | None:
        return None

    def shrink(self, width: int) -> nn.Module:
        return VectorLinear((width, self.places), (width, self.places))

    grow = shrink

    def leave(self, width: int, out: int) -> nn.Module:
        return VectorLinear((width, self.places), (out, 1))


class VectorLinear(nn.Linear):
    """All numbers to all numbers: `[N, C, P, 1] -> [N, C', P', 1]`."""

    def __init__(self, shape: tuple[int, int], out: tuple[int, int]) -> None:
        super().__init__(shape[0] * shape[1], out[0] * out[1])
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)).unflatten(1, (*self.out, 1))


class VectorBlock(nn.Module):
    """Twice norm, swish, linear over all numbers, with the time between.  `[N, C, P, 1], [N, D] -> [N, C', P, 1]`"""

    def __init__(self, widths: tuple[int, int], places: int, sizes: UNetSizes) -> None:
        super().__init__()
        self.places = places
        width, out = widths[0] * places, widths[1] * places
        self.norm1, self.linear1 = nn.GroupNorm(sizes.groups, width), nn.Linear(width, out)
        self.time_proj = nn.Linear(sizes.time, out)
        self.norm2, self.linear2 = nn.GroupNorm(sizes.groups, out), nn.Linear(out, out)
        self.shortcut = None if width == out else nn.Linear(width, out)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = x.flatten(1)
        y = self.linear1(F.silu(self.norm1(x))) + self.time_proj(F.silu(time))
        y = self.linear2(F.silu(self.norm2(y)))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return y.unflatten(1, (-1, self.places, 1))
