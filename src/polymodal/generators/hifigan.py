"""HiFi-GAN (arXiv 2010.05646): a mel spectrogram to a waveform.

    mel [N, mels, T] -> conv -> per rate: transposed convolution, mean of residual stacks with several kernels -> conv
    -> tanh -> samples [N, T * product of the rates]

Weights are the published ones with their weight norms multiplied in.  A residual stack has a plain convolution behind
each dilated one, or none ("resblock" 1 and 2 of published configs).
Traps: the slope of the last leaky ReLU is torch's 0.01, not the 0.1 of all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, pair, rename
from polymodal.weights.weight_norm import folded

SLOPE = 0.1


@dataclass(frozen=True, kw_only=True)
class HiFiGANConfig:
    """rates, rate_kernels: of each upsampling; kernels, dilations: of the residual stacks; paired: these have a plain
    convolution behind each dilated one.  AudioLDM's by default."""

    mels: int = 64
    width: int = 1024
    rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    rate_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    paired: bool = True

    def __post_init__(self) -> None:
        fits = len(self.rates) == len(self.rate_kernels) and len(self.kernels) == len(self.dilations)
        if not fits or self.width % (1 << len(self.rates)):
            raise ConfigError(
                f"hifigan: expected a kernel for each of the rates {self.rates}, found {self.rate_kernels}, and a "
                f"width that they halve evenly, found {self.width}"
            )

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.rates)

    def build(self) -> HiFiGAN:
        return HiFiGAN(self)


class ResidualStack(nn.Module):
    """`[N, C, T] -> [N, C, T]`"""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        pads = [(kernel - 1) * each // 2 for each in dilations]
        self.convs1 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=each, padding=pad)
            for each, pad in zip(dilations, pads, strict=True)
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class DilatedStack(nn.Module):
    """`[N, C, T] -> [N, C, T]`, of the dilated convolutions alone."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=each, padding=(kernel - 1) * each // 2) for each in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, SLOPE))
        return x


class HiFiGAN(nn.Module):
    """See the module docstring."""

    def __init__(self, config: HiFiGANConfig) -> None:
        super().__init__()
        self.config = config
        width, stack = config.width, ResidualStack if config.paired else DilatedStack
        self.conv_in = nn.Conv1d(config.mels, width, 7, padding=3)
        self.ups, self.stacks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.rates, config.rate_kernels, strict=True):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2))
            width //= 2
            self.stacks.extend(stack(width, *each)
                               for each in zip(config.kernels, config.dilations, strict=True))  # fmt: skip
        self.conv_out = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        """`[N, mels, T] -> [N, samples]` in -1..1"""
        x, count = self.conv_in(mel), len(self.config.kernels)
        for index, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            total = self.stacks[index * count](x)
            for stack in self.stacks[index * count + 1 : (index + 1) * count]:
                total = total + stack(x)
            x = total / count
        return self.conv_out(F.leaky_relu(x)).tanh()[:, 0]


def parse_config(config: Mapping[str, Any]) -> HiFiGANConfig:
    """The names of the published config; absent ones are AudioLDM's.  Raises ConfigError for another residual stack."""
    usual = HiFiGANConfig()
    if (stack := str(config.get("resblock", "1"))) not in ("1", "2"):
        raise ConfigError(f"hifigan: resblock: expected '1' or '2', found {stack[:40]!r}")
    dilations = config.get("resblock_dilation_sizes")
    return HiFiGANConfig(
        mels=config.get("num_mels", usual.mels), width=config.get("upsample_initial_channel", usual.width),
        rates=tuple(config.get("upsample_rates", usual.rates)),
        rate_kernels=tuple(config.get("upsample_kernel_sizes", usual.rate_kernels)),
        kernels=tuple(config.get("resblock_kernel_sizes", usual.kernels)),
        dilations=usual.dilations if dilations is None else tuple(map(tuple, dilations)),
        paired=stack == "1",
    )  # fmt: skip


def _names(paired: bool) -> dict[str, str]:
    """Published names of convolutions -> ours."""
    names = {"conv_pre": "conv_in", "conv_post": "conv_out", "ups.{}": "ups.{}"}
    inner = ("convs1", "convs2") if paired else ("convs",)
    return names | {f"resblocks.{{}}.{part}.{{}}": f"stacks.{{}}.{part}.{{}}" for part in inner}


def official_keys(paired: bool = True) -> KeyTable:
    """Published names, without weight norm."""
    return KeyTable(tuple(row for each in _names(paired).items() for row in pair(*each)))


def weight_norm_keys(paired: bool = True) -> KeyTable:
    """Published names of files that keep weights as length and direction."""
    rows = [(folded(theirs, ours), rename(f"{theirs}.bias", f"{ours}.bias"))
            for theirs, ours in _names(paired).items()]  # fmt: skip
    return KeyTable(tuple(row for both in rows for row in both))
