"""CenterNet on MobileNetV3: finds things of 80 everyday kinds in a picture, with their boxes, in a tenth of a second.

Papers: Objects as Points (arXiv 1904.07850), MobileNetV3 (arXiv 1905.02244), boxes as four distances from the centre
(TTFNet, arXiv 1909.00700).  The published weights are 610265158/mobilenetv3_centernet's, trained on COCO train2017 (mAP
0.25 on val2017, as stated there).

    pixel_values [N, 3, H, W] in 0..255 -> MobileNetV3-Large, 0.75 wide, its maps at strides 4, 8, 16, 32
    -> from the coarsest up: twice as large, joined with the next map -> [N, 128, H/4, W/4] -> channels weighed
    -> heat [N, 80, H/4, W/4], how surely a thing of a kind has its centre there, 0..1
    -> sides [N, 4, H/4, W/4], distances in pixels from there to the left, upper, right and lower side of its box

`detections` reads the peaks of the heat as things.

Traps: pixels are not normalised; a picture is padded to a square with black.  Padding is TensorFlow's "same", and maps
grow twofold by its old bilinear rule, in which every second value is one of the small map's.  Of blocks 3 and 5 the
head reads what they expand to, of block 11 its output.  Batch norms are folded into the published convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.efficientnet import same_padding
from polymodal.weights.keytable import KeyTable
from polymodal.weights.operations import Transpose
from polymodal.weights.rows import Row, rename
from polymodal.weights.source import Source

STRIDE = 4  # pixels of the picture for one cell of heat
SCALE = 16  # the published sides are sixteenths


@dataclass(frozen=True, kw_only=True)
class MobileBlockConfig:
    """One inverted bottleneck: 1x1 to `inner` (absent when that is `in_width`), depthwise, squeeze-excite with
    `squeeze` inner channels (0: none), 1x1 to `out_width`.  swish: hard swish instead of ReLU.
    """

    in_width: int
    inner: int
    out_width: int
    kernel: int = 3
    stride: int = 1
    squeeze: int = 0
    swish: bool = False

    def build(self) -> MobileBlock:
        return MobileBlock(self)


def _block(in_width: int, inner: int, out_width: int, **more: Any) -> MobileBlockConfig:
    return MobileBlockConfig(in_width=in_width, inner=inner, out_width=out_width, **more)


LARGE_075 = (
    _block(16, 16, 16),
    _block(16, 64, 24, stride=2),
    _block(24, 72, 24),
    _block(24, 72, 32, kernel=5, stride=2, squeeze=24),
    *(_block(32, 96, 32, kernel=5, squeeze=24),) * 2,
    _block(32, 192, 64, stride=2, swish=True),
    _block(64, 160, 64, swish=True),
    *(_block(64, 144, 64, swish=True),) * 2,
    _block(64, 384, 88, squeeze=96, swish=True),
    _block(88, 528, 88, squeeze=136, swish=True),
    _block(88, 528, 120, kernel=5, stride=2, squeeze=136, swish=True),
    *(_block(120, 720, 120, kernel=5, squeeze=184, swish=True),) * 2,
)
"""MobileNetV3-Large with 0.75 of its channels, all 15 blocks."""


@dataclass(frozen=True, kw_only=True)
class CenterNetConfig:
    """`kinds` of things; `widths` of the three joined maps, from the coarsest, half of each from either side."""

    blocks: tuple[MobileBlockConfig, ...] = LARGE_075
    stem_width: int = 16
    top_width: int = 480
    kinds: int = 80
    widths: tuple[int, int, int] = (256, 192, 128)
    expanded: tuple[int, int] = (3, 5)
    finished: int = 11

    def build(self) -> CenterNet:
        return CenterNet(self)

    @property
    def laterals(self) -> tuple[int, int, int]:
        """Channels of the three maps that join, from the coarsest."""
        fine, middle = (self.blocks[index].inner for index in self.expanded)
        return self.blocks[self.finished].out_width, middle, fine


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, with a bias unless told otherwise."""

    def __init__(
        self, in_width: int, out_width: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True
    ):
        super().__init__(in_width, out_width, kernel, stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        top, bottom = same_padding(x.shape[-2], kernel, stride)
        left, right = same_padding(x.shape[-1], kernel, stride)
        if top == bottom and left == right:
            return F.conv2d(x, self.weight, self.bias, stride, (top, left), 1, self.groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, self.bias, stride, 0, 1, self.groups)


class Separable(nn.Module):
    """A depthwise convolution without bias, then 1x1."""

    def __init__(self, in_width: int, out_width: int, kernel: int):
        super().__init__()
        self.depthwise = SameConv(in_width, in_width, kernel, groups=in_width, bias=False)
        self.pointwise = SameConv(in_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Squeeze(nn.Module):
    """Squeeze-excite (arXiv 1709.01507): the mean of each channel of x [N, C, h, w] -> its weight [N, C, 1, 1]."""

    def __init__(self, width: int, inner: int, bias: bool = True):
        super().__init__()
        self.down = SameConv(width, inner)
        self.up = SameConv(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))


class MobileBlock(nn.Module):
    """`x -> expand(x)`, then `finish(expanded, x)`: the head reads between the two."""

    def __init__(self, config: MobileBlockConfig):
        super().__init__()
        inner = config.inner
        self.expand = SameConv(config.in_width, inner) if inner != config.in_width else None
        self.depthwise = SameConv(inner, inner, config.kernel, config.stride, groups=inner)
        self.squeeze = Squeeze(inner, config.squeeze) if config.squeeze else None
        self.project = SameConv(inner, config.out_width)
        self.act = F.hardswish if config.swish else F.relu
        self.residual = config.stride == 1 and config.in_width == config.out_width

    def expanded(self, x: Tensor) -> Tensor:
        return x if self.expand is None else self.act(self.expand(x))

    def finish(self, expanded: Tensor, x: Tensor) -> Tensor:
        y = self.act(self.depthwise(expanded))
        if self.squeeze is not None:
            y = y * F.hardsigmoid(self.squeeze(y))
        return self.project(y) + x if self.residual else self.project(y)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.expanded(x), x)


class Lateral(nn.Module):
    """What a finer map of the trunk gives to the joined one, through a quarter of its channels."""

    def __init__(self, in_width: int, out_width: int):
        super().__init__()
        self.reduce = SameConv(in_width, in_width // 4)
        self.spread = Separable(in_width // 4, out_width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.spread(F.relu(self.reduce(x)))


class Upward(nn.Module):
    """A map twice as large: the sum of a 3x3 and a 5x5 separable convolution, then bilinear."""

    def __init__(self, in_width: int, out_width: int):
        super().__init__()
        self.small = Separable(in_width, out_width, 3)
        self.large = Separable(in_width, out_width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return doubled(self.small(x) + self.large(x))


def doubled(x: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, C, 2h, 2w]: each value, and between it and the next their mean; the last is repeated."""
    for dim in (2, 3):
        last = x.shape[dim] - 1
        following = torch.cat([x.narrow(dim, 1, last), x.narrow(dim, last, 1)], dim)
        x = torch.stack([x, (x + following) / 2], dim + 1).flatten(dim, dim + 1)
    return x


class CenterNet(nn.Module):
    """`[N, 3, H, W] -> heat [N, kinds, H/4, W/4], sides [N, 4, H/4, W/4]`; H and W are multiples of 32."""

    def __init__(self, config: CenterNetConfig):
        super().__init__()
        self.config = config
        self.stem = SameConv(3, config.stem_width, 3, 2)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.top = SameConv(config.blocks[-1].out_width, config.top_width)
        halves = [width // 2 for width in config.widths]
        self.laterals = nn.ModuleList(Lateral(*widths) for widths in zip(config.laterals, halves, strict=True))
        coarse = (config.top_width, *config.widths[:-1])
        self.upwards = nn.ModuleList(Upward(*widths) for widths in zip(coarse, halves, strict=True))
        last = config.widths[-1]
        self.squeeze = Squeeze(last, last // 4, bias=False)
        self.heat = Separable(last, config.kinds, 3)
        self.sides = Separable(last, 4, 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(self, pixel_values: Tensor) -> list[Tensor]:
        """The trunk's four maps, from the coarsest."""
        x = F.hardswish(self.stem(pixel_values))
        found = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, MobileBlock)
            expanded = block.expanded(x)
            x = block.finish(expanded, x)
            if index in self.config.expanded:
                found.append(expanded)
            elif index == self.config.finished:
                found.append(x)
        return [F.hardswish(self.top(x)), *reversed(found)]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        x, *finer = self.maps(pixel_values)
        for lateral, upward, fine in zip(self.laterals, self.upwards, finer, strict=True):
            x = F.relu(torch.cat([lateral(fine), upward(x)], dim=1))
        x = x * self.squeeze(x).sigmoid()
        return self.heat(x).sigmoid(), self.sides(x) * SCALE


def detections(heat: Tensor, sides: Tensor, most: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """Heat [N, K, h, w] and sides [N, 4, h, w] -> scores [N, most], kinds [N, most] and boxes [N, most, 4] in pixels.

    Each is a peak of the heat of its kind, the surest first; boxes are (left, top, right, bottom) and may reach out of
    the picture.
    """
    peaks = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
    height, width = heat.shape[-2:]
    scores, at = peaks.flatten(1).topk(min(most, peaks[0].numel()))
    kinds, cell = at // (height * width), at % (height * width)
    reach = sides.flatten(2).gather(2, cell[:, None].expand(-1, 4, -1)).transpose(1, 2)
    centre = torch.stack([cell % width, cell // width], dim=-1) * STRIDE
    return scores, kinds, torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], dim=-1)


_KERNEL = (Transpose(0, 3), Transpose(1, 2), Transpose(2, 3))  # height, width, in, out -> out, in, height, width
_DEPTHWISE = (Transpose(0, 2), Transpose(1, 3))  # height, width, channels, 1 -> channels, 1, height, width


def _conv(source: str, target: str, depthwise: bool = False) -> tuple[Row, ...]:
    """A convolution whose batch norm was folded into it."""
    kind = "depthwise" if depthwise else "Conv2D"
    return (
        rename(f"tower_0/{source}{kind}_weights", f"{target}.weight", *(_DEPTHWISE if depthwise else _KERNEL)),
        rename(f"tower_0/{source}{kind}_bn_offset", f"{target}.bias"),
    )


def _separable(source: str, target: str) -> tuple[Row, ...]:
    return (
        rename(f"CenternetHead/{source}/depthwise_weights", f"{target}.depthwise.weight", *_DEPTHWISE),
        rename(f"tower_0/CenternetHead/{source}/separable_conv2d_weights", f"{target}.pointwise.weight", *_KERNEL),
        rename(f"tower_0/CenternetHead/{source}/separable_conv2d_bn_offset", f"{target}.pointwise.bias"),
    )


def _plain(source: str, target: str, weights: str = "weights", operations: tuple[Transpose, ...] = _KERNEL) -> Row:
    return rename(f"{source}/{weights}", f"{target}.weight", *operations)


def _published() -> tuple[Row, ...]:
    net, gate = "MobilenetV3/expanded_conv_{}", "MobilenetV3/expanded_conv_{}/squeeze_excite"
    rows = [
        *_conv("MobilenetV3/Conv/", "stem"),
        *_conv("MobilenetV3/expanded_conv/depthwise/", "blocks.0.depthwise", depthwise=True),
        *_conv("MobilenetV3/expanded_conv/project/", "blocks.0.project"),
        *_conv(f"{net}/expand/", "blocks.{}.expand"),
        *_conv(f"{net}/depthwise/", "blocks.{}.depthwise", depthwise=True),
        *_conv(f"{net}/project/", "blocks.{}.project"),
        *_conv("extern1/", "top"),
        *_conv("CenternetHead/conv1x1_se_a/", "squeeze.down"),
        _plain("CenternetHead/conv1x1_se_b", "squeeze.up"),
    ]
    for name, part in (("Conv", "down"), ("Conv_1", "up")):
        rows += [
            _plain(f"{gate}/{name}", f"blocks.{{}}.squeeze.{part}"),
            rename(f"{gate}/{name}/biases", f"blocks.{{}}.squeeze.{part}.bias"),
        ]
    for index, (fine, coarse) in enumerate((("c4", "c5"), ("c3", "c4"), ("c2", "c3"))):
        rows += [
            *_conv(f"CenternetHead/{fine}_reverse/1x1/", f"laterals.{index}.reduce"),
            *_separable(f"{fine}_reverse/3x3", f"laterals.{index}.spread"),
            *_separable(f"{coarse}_upsample/branch_x_upsample_resize", f"upwards.{index}.small"),
            *_separable(f"{coarse}_upsample/branch_y_upsample_resize", f"upwards.{index}.large"),
        ]
    for name, part in (("cls", "heat"), ("wh", "sides")):
        source = f"CenternetHead/centernet_{name}_output"
        rows += [
            _plain(source, f"{part}.depthwise", "depthwise_weights", _DEPTHWISE),
            _plain(source, f"{part}.pointwise", "pointwise_weights"),
            rename(f"{source}/biases", f"{part}.pointwise.bias"),
        ]
    return tuple(rows)


PUBLISHED_KEYS = KeyTable.of(None, *_published())
"""The published TensorFlow.js graph model (weights/tfjs.py) -> ours."""

_FILES = {
    "json": ("bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05", 201_673),
    "bin": ("1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef", 4_030_290),
}
CENTERNET_SOURCE, CENTERNET_VALUES = (
    Source(kind="npm", name="@vladmandic/human", revision="3.3.6", file=f"models/centernet.{kind}", sha256=sha256,
           size=size, license="MIT", format="tfjs" if kind == "json" else "") for kind, (sha256, size) in _FILES.items()
)  # fmt: skip
"""The manifest, and the file beside it that holds the values; MIT is the licence of the package."""
