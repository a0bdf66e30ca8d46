"""ResNet of bottlenecks (arXiv 1512.03385), as torchvision has it, up to its last grid of features.

    pixel_values [N, 3, H, W] -> conv 7 x 7 / 2, norm, ReLU, max pool / 2 -> four stages of bottlenecks
    -> [N, 32 W, H / 32, W / 32] -> averaged to side x side -> regions [N, side * side, 32 W], row by row

Traps: the stride of a stage is in its first 3 x 3 convolution (torchvision), not in the 1 x 1 before it (the paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.weights.keytable import KeyTable, Row, drop, rename

EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """depths: bottlenecks a stage.  width: channels behind the first convolution.  side: of the grid of regions."""

    depths: tuple[int, int, int, int] = (3, 8, 36, 3)
    width: int = 64
    side: int = 7

    @property
    def out_width(self) -> int:
        return self.width * 8 * EXPANSION

    def build(self) -> ResNet:
        return ResNet(self)


class Bottleneck(nn.Module):
    """`[N, C, H, W] -> [N, 4 W, H / stride, W / stride]`"""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out)
        changes = stride != 1 or in_width != out
        self.down_conv = nn.Conv2d(in_width, out, 1, stride=stride, bias=False) if changes else None
        self.down_norm = nn.BatchNorm2d(out) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.down_conv is None or self.down_norm is None else self.down_norm(self.down_conv(x))
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + kept)


class ResNet(nn.Module):
    """See the module docstring."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(config.width)
        self.stages, width = nn.ModuleList(), config.width
        for number, depth in enumerate(config.depths):
            inner = config.width * 2**number
            blocks = [Bottleneck(width, inner, 1 if number == 0 else 2)]
            width = inner * EXPANSION
            blocks += [Bottleneck(width, inner, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, H, W] -> [N, side * side, out_width]`"""
        x = F.max_pool2d(F.relu(self.norm(self.conv(pixel_values))), 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        return F.adaptive_avg_pool2d(x, self.config.side).flatten(2).transpose(1, 2)


def _norm(source: str, target: str) -> list[Row]:
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in leaves]


def torchvision_keys(config: ResNetConfig) -> KeyTable:
    """torchvision's names -> ours; the classifier is dropped."""
    rows: list[Row] = [drop("fc.**"), rename("conv1.weight", "conv.weight"), *_norm("bn1", "norm")]
    for number in range(len(config.depths)):
        source, target = f"layer{number + 1}.{{}}", f"stages.{number}.{{}}"
        for layer in "123":
            rows.append(rename(f"{source}.conv{layer}.weight", f"{target}.conv{layer}.weight"))
            rows += _norm(f"{source}.bn{layer}", f"{target}.norm{layer}")
        rows.append(rename(f"{source}.downsample.0.weight", f"{target}.down_conv.weight"))
        rows += _norm(f"{source}.downsample.1", f"{target}.down_norm")
    return KeyTable(tuple(rows))
