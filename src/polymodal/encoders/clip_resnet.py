"""CLIP's ResNet image encoders: a ResNet with anti-aliased strides (average pooling) and attention pooling.

Paper: CLIP (arXiv 2103.00020), section 2.4; ResNet (arXiv 1512.03385), anti-aliased strides (arXiv 1904.11486).

Flow
    pixel_values [N, 3, S, S] -> three 3 x 3 convolutions, the first with stride 2 -> 2 x 2 average pooling
    -> four stages of bottlenecks (1 x 1, 3 x 3, average pooling instead of a stride, 1 x 1; batch norm after each)
    -> features [N, P, 32 W], row-major -> their mean prepended, + positions -> the mean attends to all
    -> linear to the joint space [N, E]

Traps
- The attention has 32 W // 64 heads; no file stores that number.
- Positions fit one image size.  Inference needs the stored batch norm statistics: call `eval()`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import attend
from polymodal.nn.linear import Linear
from polymodal.weights.keytable import KeyTable, Row, rename

EXPANSION = 4
"""Output width of a bottleneck over its inner width."""


@dataclass(frozen=True, kw_only=True)
class ClipResNetConfig:
    """`depths`: bottlenecks per stage; `width`: channels after the stem; `image_size`: pixels, a multiple of 32."""

    width: int
    depths: tuple[int, int, int, int]
    embed_width: int
    image_size: int = 224
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.image_size % 32:
            raise ConfigError(f"clip resnet: image_size must be a multiple of 32, found {self.image_size}")

    @property
    def out_width(self) -> int:
        """Channels after the last stage."""
        return self.width * 8 * EXPANSION

    @property
    def tokens(self) -> int:
        """Features per image."""
        return (self.image_size // 32) ** 2

    def build(self) -> "ClipResNet":
        return ClipResNet(self)


RN50 = ClipResNetConfig(width=64, depths=(3, 4, 6, 3), embed_width=1024)
RN101 = ClipResNetConfig(width=64, depths=(3, 4, 23, 3), embed_width=512)
RN50X4 = ClipResNetConfig(width=80, depths=(4, 6, 10, 6), embed_width=640, image_size=288)
RN50X16 = ClipResNetConfig(width=96, depths=(6, 8, 18, 8), embed_width=768, image_size=384)
RN50X64 = ClipResNetConfig(width=128, depths=(3, 15, 36, 10), embed_width=1024, image_size=448)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """`[N, C, H, W] -> [N, 4 M, H / stride, W / stride]`"""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = inner * EXPANSION
        self.stride = stride
        self.reduce = ConvNorm(channels, inner, 1)
        self.spread = ConvNorm(inner, inner, 3)
        self.expand = ConvNorm(inner, out, 1)
        self.shortcut = ConvNorm(channels, out, 1) if stride > 1 or channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.spread(F.relu(self.reduce(x))))
        short = x
        if self.stride > 1:
            y, short = F.avg_pool2d(y, self.stride), F.avg_pool2d(x, self.stride)
        if self.shortcut is not None:
            short = self.shortcut(short)
        return F.relu(self.expand(y) + short)


class AttentionPool(nn.Module):
    """`[N, P, C] -> [N, E]`: the mean, with a position of its own, attends to itself and to all features."""

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        width = config.out_width
        self.heads = config.heads or width // 64
        self.positions = nn.Parameter(torch.randn(config.tokens + 1, width) / width**0.5)
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.o_proj = Linear(width, config.embed_width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x.mean(1, keepdim=True), x), 1) + self.positions
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        )
        return self.o_proj(attend(q, k, v, None).transpose(1, 2).flatten(2))[:, 0]


class ClipResNet(nn.Module):
    """`forward`: features `[N, P, 32 W]`; `joint`: vectors `[N, E]`, not normalised."""

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.ModuleList(
            (ConvNorm(3, width // 2, 3, stride=2), ConvNorm(width // 2, width // 2, 3), ConvNorm(width // 2, width, 3))
        )
        stages, channels = [], width
        for stage, depth in enumerate(config.depths):
            inner = width * 2**stage
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(channels, inner, 2 if stage and not index else 1))
                channels = inner * EXPANSION
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.head = AttentionPool(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Raises ConfigError for images of another size."""
        size = self.config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            actual = list(pixel_values.shape)
            raise ConfigError(f"clip resnet: expected [N, 3, {size}, {size}], found {actual}; resize the images")
        x = pixel_values
        for conv in self.stem:
            x = F.relu(conv(x))
        x = F.avg_pool2d(x, 2)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        return x.flatten(2).transpose(1, 2)

    def joint(self, pixel_values: Tensor) -> Tensor:
        return self.head(self(pixel_values))


def _norm(source: str, target: str) -> list[Row]:
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in leaves]


def openai_keys() -> KeyTable:
    """Names of the official files -> ours."""
    rows: list[Row] = []
    for index in range(3):
        rows.append(rename(f"visual.conv{index + 1}.weight", f"stem.{index}.conv.weight"))
        rows += _norm(f"visual.bn{index + 1}", f"stem.{index}.norm")
    for stage in range(4):
        source, target = f"visual.layer{stage + 1}.{{}}", f"stages.{stage}.{{}}"
        for index, part in enumerate(("reduce", "spread", "expand"), 1):
            rows.append(rename(f"{source}.conv{index}.weight", f"{target}.{part}.conv.weight"))
            rows += _norm(f"{source}.bn{index}", f"{target}.{part}.norm")
        rows.append(rename(f"{source}.downsample.0.weight", f"{target}.shortcut.conv.weight"))
        rows += _norm(f"{source}.downsample.1", f"{target}.shortcut.norm")
    for theirs, ours in (("q_proj", "q_proj"), ("k_proj", "k_proj"), ("v_proj", "v_proj"), ("c_proj", "o_proj")):
        rows += [rename(f"visual.attnpool.{theirs}.{leaf}", f"head.{ours}.{leaf}") for leaf in ("weight", "bias")]
    rows.append(rename("visual.attnpool.positional_embedding", "head.positions"))
    return KeyTable(tuple(rows))
