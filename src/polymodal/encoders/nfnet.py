"""NFNet: a residual convolutional network without normalisation; the image encoder of Flamingo (F6).

Paper: High-Performance Large-Scale Image Recognition Without Normalization (arXiv 2102.06171).

Flow
    pixel_values [N, 3, H, W] -> four 3x3 convolutions, stride 4 -> four stages, strides 1, 2, 2, 2 -> [N, C, h, w]
    block: a = act(x) * beta;  x' = shortcut(a) or x;  x' + alpha * gain * 2 * squeeze(four convolutions of a)
    -> features [N, h * w, C], row-major

Traps
- Weights are standardised per output channel in every forward and scaled by a learned gain; there is no other norm.
- beta is 1 / sqrt(expected variance), which grows by alpha ** 2 per block and resets after the first block of a stage.
- GELU is scaled by 1.7015 to keep unit variance; padding is TensorFlow's "same": the odd pixel is added at the end.
- Flamingo uses the last stage; the published classifier has one more convolution, to twice the width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Unsqueeze

GELU_GAIN = 1.7015043497085571  # gives gelu(x) unit variance for x of unit variance
EPS, ALPHA = 1e-5, 0.2


@dataclass(frozen=True, kw_only=True)
class NFNetConfig:
    """Defaults are F6's.  `group_size`: channels per group in the 3x3 convolutions."""

    image_size: int = 288
    depths: tuple[int, ...] = (7, 14, 42, 21)
    channels: tuple[int, ...] = (256, 512, 1536, 1536)
    stem_width: int = 128
    group_size: int = 128

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.channels) or not self.depths:
            raise ConfigError(f"nfnet: depths {self.depths} and channels {self.channels} must have the same length")
        if self.stem_width % 8 or any(width // 2 % self.group_size for width in self.channels):
            raise ConfigError(
                f"nfnet: stem_width must be a multiple of 8 and channels / 2 of {self.group_size}, "
                f"found {self.stem_width} and {self.channels}"
            )

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.channels[-1]

    @property
    def tokens(self) -> int:
        """Features per image of `image_size`."""
        side = self.image_size
        for stride in (2, 2, *(2 for _ in self.depths[1:])):
            side = math.ceil(side / stride)
        return side**2

    def build(self) -> "NFNet":
        return NFNet(self)


def act(x: Tensor) -> Tensor:
    return F.gelu(x) * GELU_GAIN


class ScaledConv(nn.Conv2d):
    """Weight-standardised convolution with "same" padding. [N, C, H, W] -> [N, C', H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        scale = self.gain * self.weight[0].numel() ** -0.5
        weight = (self.weight - mean) * (variance + EPS).rsqrt() * scale
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, pads) if any(pads) else x, weight, self.bias, self.stride, 0, 1, self.groups)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: channel gates from the global mean (arXiv 1709.01507). [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = -(-(width // 2) // 8) * 8
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class NFBlock(nn.Module):
    """One residual block; see the module docstring for the flow."""

    def __init__(self, inputs: int, outputs: int, stride: int, group_size: int, beta: float) -> None:
        super().__init__()
        inner = outputs // 2
        groups = inner // group_size
        self.beta, self.stride = beta, stride
        reshapes = inputs != outputs or stride != 1
        self.shortcut = ScaledConv(inputs, outputs, 1) if reshapes else None
        self.conv1 = ScaledConv(inputs, inner, 1)
        self.conv2 = ScaledConv(inner, inner, 3, stride, groups)
        self.conv3 = ScaledConv(inner, inner, 3, 1, groups)
        self.conv4 = ScaledConv(inner, outputs, 1)
        self.squeeze = SqueezeExcite(outputs)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        out = act(x) * self.beta
        if self.shortcut is not None:
            pooled = F.avg_pool2d(out, 2, 2, ceil_mode=True, count_include_pad=False) if self.stride > 1 else out
            x = self.shortcut(pooled)
        for conv in (self.conv1, self.conv2, self.conv3):
            out = act(conv(out))
        return x + ALPHA * self.gain * 2.0 * self.squeeze(self.conv4(out))


class NFNet(nn.Module):
    """`[N, 3, H, W] -> [N, S, C]`"""

    def __init__(self, config: NFNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [3, *(config.stem_width // divisor for divisor in (8, 4, 2, 1))]
        steps = zip(widths[:-1], widths[1:], (2, 1, 1, 2), strict=True)
        self.stem = nn.ModuleList(ScaledConv(inputs, outputs, 3, stride) for inputs, outputs, stride in steps)
        self.stages = nn.ModuleList()
        inputs, variance = config.stem_width, 1.0
        for number, (depth, outputs) in enumerate(zip(config.depths, config.channels, strict=True)):
            blocks = nn.ModuleList()
            for index in range(depth):
                stride = 2 if number and not index else 1
                blocks.append(NFBlock(inputs, outputs, stride, config.group_size, variance**-0.5))
                variance = (1.0 if index == 0 else variance) + ALPHA**2
                inputs = outputs
            self.stages.append(blocks)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """float [N, 3, H, W] -> features [N, h * w, C] of the last stage, row-major."""
        x = pixel_values
        for number, conv in enumerate(self.stem):
            x = conv(x if number == 0 else act(x))
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x)
        return x.flatten(2).transpose(1, 2)


def parse_config(config: Mapping[str, Any]) -> NFNetConfig:
    """{image_size, depths, channels, stem_width, group_size} -> config; absent keys take the values of F6."""
    names = ("image_size", "depths", "channels", "stem_width", "group_size")
    if unknown := set(config) - {*names, "model_type"}:
        raise ConfigError(f"nfnet: unknown options {sorted(unknown)}; expected {', '.join(names)}")
    options: dict[str, Any] = {name: config[name] for name in names if name in config}
    options |= {name: tuple(x) for name, x in options.items() if isinstance(x, list)}
    return NFNetConfig(**options)


_O = "stages.{}.{}"
_PARTS = {"conv1": "conv1", "conv2": "conv2", "conv2b": "conv3", "conv3": "conv4", "downsample.conv": "shortcut"}
TIMM_KEYS = KeyTable(
    (
        *(rename(f"stem.conv{{+1}}.{leaf}", f"stem.{{}}.{leaf}") for leaf in ("weight", "bias", "gain")),
        *(
            rename(f"{_O}.{theirs}.{leaf}", f"{_O}.{ours}.{leaf}")
            for theirs, ours in _PARTS.items()
            for leaf in ("weight", "bias", "gain")
        ),
        *(
            rename(f"{_O}.attn_last.{theirs}.{leaf}", f"{_O}.squeeze.{ours}.{leaf}")
            for theirs, ours in {"fc1": "down", "fc2": "up"}.items()
            for leaf in ("weight", "bias")
        ),
        rename(f"{_O}.skipinit_gain", f"{_O}.gain", Unsqueeze()),
        drop("final_conv.**"),
        drop("head.**"),
    )
)
"""timm's names for dm_nfnet_f0 to f6 (without the classifier head) -> ours."""
