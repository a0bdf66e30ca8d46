"""ConvNeXt: a residual convolutional network built like a transformer; OpenCLIP's XXLarge is one of SPHINX's encoders.

Paper: A ConvNet for the 2020s (arXiv 2201.03545); sizes of timm.

Flow
    pixel_values [N, 3, H, W] -> convolution 4 x 4, stride 4 -> norm -> four stages -> norm -> features [N, h * w, C]
    block: x + scale * down(gelu(up(norm(depthwise 7 x 7 (x)))));  between stages: norm -> convolution 2 x 2, stride 2

Traps
- All norms are over the channels of one place; the linears of a block work on channels too.
- The last norm stands in timm's head, in front of what pools and classifies there.
- transformers norms the pooled vector instead of every place; pooling comes first there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename

STEM, STEP = 4, 2


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Defaults are XXLarge's.  image_size: side of a picture in pixels.  scale: initial layer scale."""

    image_size: int = 256
    depths: tuple[int, ...] = (3, 4, 30, 3)
    widths: tuple[int, ...] = (384, 768, 1536, 3072)
    kernel: int = 7
    eps: float = 1e-5
    scale: float = 1e-6

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ConfigError(f"convnext: depths {self.depths} and widths {self.widths} must have the same length")
        if self.image_size % self.stride:
            raise ConfigError(f"convnext: image_size must be a multiple of {self.stride}, found {self.image_size}")

    @property
    def stride(self) -> int:
        """Pixels between two features."""
        return STEM * STEP ** (len(self.depths) - 1)

    @property
    def grid(self) -> int:
        """Side of the grid of features of an image of `image_size`."""
        return self.image_size // self.stride

    @property
    def tokens(self) -> int:
        """Features per image of `image_size`."""
        return self.grid**2

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.widths[-1]

    def build(self) -> ConvNeXt:
        return ConvNeXt(self)


class ConvNeXtBlock(nn.Module):
    """`[N, h, w, C] -> [N, h, w, C]`"""

    def __init__(self, config: ConvNeXtConfig, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.norm = LayerNormConfig(eps=config.eps).build(width)
        self.mlp = MLPConfig(width=width, ffn_width=4 * width).build()
        self.scale = nn.Parameter(torch.full((width,), config.scale))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.mlp(self.norm(convolved(self.conv, x)))


class ConvNeXtStage(nn.Module):
    """Norm and strided convolution, but in the first stage, then blocks; `[N, h, w, C] -> [N, h', w', C']`"""

    def __init__(self, config: ConvNeXtConfig, index: int) -> None:
        super().__init__()
        before, width = config.widths[max(0, index - 1)], config.widths[index]
        self.down_norm = LayerNormConfig(eps=config.eps).build(before) if index else None
        self.down = nn.Conv2d(before, width, STEP, stride=STEP) if index else None
        self.blocks = nn.ModuleList(ConvNeXtBlock(config, width) for _ in range(config.depths[index]))

    def forward(self, x: Tensor) -> Tensor:
        if self.down is not None and self.down_norm is not None:
            x = convolved(self.down, self.down_norm(x))
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXt(nn.Module):
    """The encoder; see the module docstring for the flow."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(3, config.widths[0], STEM, stride=STEM)
        self.stem_norm = LayerNormConfig(eps=config.eps).build(config.widths[0])
        self.stages = nn.ModuleList(ConvNeXtStage(config, index) for index in range(len(config.depths)))
        self.norm = LayerNormConfig(eps=config.eps).build(config.width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels [N, 3, H, W], of any size that the stride divides -> [N, h * w, C], row-major.

        Raises ConfigError for pixels that are no such pictures.
        """
        if (
            pixel_values.dim() != 4
            or pixel_values.shape[1] != 3
            or any(x % self.config.stride for x in pixel_values.shape[2:])
        ):
            raise ConfigError(f"convnext: pixel_values must be [N, 3, H, W] with sides that are multiples of "
                              f"{self.config.stride}, found {list(pixel_values.shape)}")  # fmt: skip
        x = self.stem_norm(self.stem(pixel_values.to(self.stem.weight.dtype)).permute(0, 2, 3, 1))
        for stage in self.stages:
            x = stage(x)
        return self.norm(x).flatten(1, 2)


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of features [N, h, w, C] with the channels last."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def timm_keys() -> KeyTable:
    """timm's names (the trunk of OpenCLIP's ConvNeXts) -> ours."""
    block = "stages.{}.blocks.{}"
    names = {
        "stem.0": "stem", "stem.1": "stem_norm", "head.norm": "norm", "stages.{}.downsample.0": "stages.{}.down_norm",
        "stages.{}.downsample.1": "stages.{}.down", f"{block}.conv_dw": f"{block}.conv", f"{block}.norm":
        f"{block}.norm", f"{block}.mlp.fc1": f"{block}.mlp.up_proj", f"{block}.mlp.fc2": f"{block}.mlp.down_proj",
    }  # fmt: skip
    rows: list[Row] = [rename(f"{block}.gamma", f"{block}.scale")]
    rows += [
        rename(f"{theirs}.{leaf}", f"{ours}.{leaf}") for theirs, ours in names.items() for leaf in ("weight", "bias")
    ]
    return KeyTable(tuple(rows))
