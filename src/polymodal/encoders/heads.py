"""Heads on the features of an image encoder: class logits, codebook logits per patch, pixels.

    features [N, S, D] -> ClassLogits  (class token or mean of the patches, norm?, linear)  -> [N, classes]
                       -> PatchLogits  (norm?, linear on each patch)                        -> [N, patches, codes]
                       -> PatchPixels  (1 x 1 convolution, pixel shuffle; SimMIM, arXiv 2111.09886) -> [N, C, H, W]

Trap: the first feature is the class token, not a patch; `PatchPixels` needs a square grid.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class ClassLogitsConfig:
    """`pool`: take the class token, or the mean of the patches.  classes 0: return the pooled vector."""

    width: int
    classes: int
    pool: Literal["class", "patches"] = "class"
    norm: NormConfig | None = None

    def build(self) -> "ClassLogits":
        return ClassLogits(self)


class ClassLogits(nn.Module):
    """`[N, S, D] -> [N, classes]`"""

    def __init__(self, config: ClassLogitsConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = None if config.norm is None else config.norm.build(config.width)
        self.proj = nn.Linear(config.width, config.classes) if config.classes else None

    def pooled(self, features: Tensor) -> Tensor:
        """`[N, S, D] -> [N, D]`"""
        x = features[:, 0] if self.config.pool == "class" else features[:, 1:].mean(1)
        return x if self.norm is None else self.norm(x)

    def forward(self, features: Tensor) -> Tensor:
        x = self.pooled(features)
        return x if self.proj is None else self.proj(x)


@dataclass(frozen=True, kw_only=True)
class PatchLogitsConfig:
    """`codes`: size of the visual codebook."""

    width: int
    codes: int
    norm: NormConfig | None = None

    def build(self) -> "PatchLogits":
        return PatchLogits(self)


class PatchLogits(nn.Module):
    """`[N, 1 + P, D] -> [N, P, codes]`"""

    def __init__(self, config: PatchLogitsConfig) -> None:
        super().__init__()
        self.norm = None if config.norm is None else config.norm.build(config.width)
        self.proj = nn.Linear(config.width, config.codes)

    def forward(self, features: Tensor) -> Tensor:
        x = features if self.norm is None else self.norm(features)
        return self.proj(x[:, 1:])


@dataclass(frozen=True, kw_only=True)
class PatchPixelsConfig:
    """`stride`: side in pixels of the square that each patch decodes to."""

    width: int
    stride: int
    channels: int = 3

    def build(self) -> "PatchPixels":
        return PatchPixels(self)


class PatchPixels(nn.Module):
    """`[N, 1 + P, D] -> [N, channels, H, W]` with H = W = sqrt(P) * stride"""

    def __init__(self, config: PatchPixelsConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.proj = nn.Conv2d(config.width, config.stride**2 * config.channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Raises ConfigError unless the patches form a square grid."""
        patches = features[:, 1:]
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1]:
            raise ConfigError(f"patch pixels: expected a square number of patches, found {patches.shape[1]}")
        return F.pixel_shuffle(self.proj(patches.transpose(1, 2).unflatten(2, (side, side))), self.stride)
