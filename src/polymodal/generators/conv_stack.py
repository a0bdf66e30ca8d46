"""The convolutional encoder and decoder of image codecs: pixels to a grid of latents, and latents to pixels.

VQ-GAN (arXiv 2012.09841); norms conditioned on the codebook vectors are MoVQ's (arXiv 2209.09002).

    encoder: conv -> per level: residual blocks (attention after each, at some levels) -> pad right and bottom, stride 2
             -> block, attention, block -> norm, swish, conv
    decoder: conv -> block, attention, block -> per level, from the coarsest: one more block -> nearest x2, conv
             -> norm, swish, conv

Level 0 is the finest in both.  Traps: group norms have 32 groups and eps 1e-6, so channels are multiples of 32; the
stride-2 convolution pads right and bottom only; a conditioned norm has a scale and shift per spatial position.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig

GROUPS, EPS = 32, 1e-6
LayerFactory = Callable[[int], nn.Module]  # channels -> layer


class GroupNorm(nn.GroupNorm):
    """Group norm with 32 groups; `condition` is ignored.  `[N, C, H, W] -> [N, C, H, W]`"""

    def __init__(self, channels: int):
        if channels % GROUPS:
            raise ConfigError(f"codec: channels must be a multiple of {GROUPS}, found {channels}")
        super().__init__(GROUPS, channels, EPS)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if x.numel() == self.num_groups:
            raise ConfigError("codec: of so small a picture one value is left, which has no deviation to norm by; "
                              "the preprocessor's size does not fit this model")  # fmt: skip
        return super().forward(x)


class SpatialNorm(nn.Module):
    """Group norm whose scale and shift are 1x1 convolutions of `condition [N, C', h, w]`, resized to `x`."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.norm = GroupNorm(channels)
        self.scale = nn.Conv2d(condition, channels, 1)
        self.shift = nn.Conv2d(condition, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        condition = F.interpolate(condition, size=x.shape[-2:], mode="nearest")
        return self.norm(x) * self.scale(condition) + self.shift(condition)


class ResidualBlock(nn.Module):
    """Twice norm, swish, conv; the shortcut is the identity or a 1x1 conv.  `[N, C, H, W] -> [N, C', H, W]`"""

    def __init__(self, channels: int, out_channels: int, norm: LayerFactory):
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = None if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x, condition)))
        y = self.conv2(F.silu(self.norm2(y, condition)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class GridAttention(nn.Module):
    """Self-attention over all spatial positions, with a residual.  `[N, C, H, W] -> [N, C, H, W]`"""

    def __init__(self, channels: int, heads: int, norm: LayerFactory):
        super().__init__()
        self.norm = norm(channels)
        self.attn = AttentionConfig(width=channels, heads=heads, qkv_bias=True, out_bias=True).build()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        tokens = self.norm(x, condition).flatten(2).transpose(1, 2)
        return x + self.attn(tokens).transpose(1, 2).reshape(x.shape)


class MiddleBlock(nn.Module):
    """Residual block, optional attention, residual block."""

    attention: GridAttention | None

    def __init__(self, channels: int, heads: int | None, norm: LayerFactory):
        super().__init__()
        self.first = ResidualBlock(channels, channels, norm)
        self.attention = None if heads is None else GridAttention(channels, heads, norm)
        self.second = ResidualBlock(channels, channels, norm)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.first(x, condition)
        if self.attention is not None:
            x = self.attention(x, condition)
        return self.second(x, condition)


class Downsample(nn.Conv2d):
    """3x3 convolution with stride 2, padded right and bottom."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, and the resampling to the next (None for the last)."""

    resize: nn.Module | None

    def __init__(self, widths: tuple[int, ...], heads: int | None, norm: LayerFactory, resize: LayerFactory | None):
        """widths: channels before the first block and after each block.  heads: None = no attention."""
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(a, b, norm) for a, b in pairwise(widths))
        attention_widths = () if heads is None else widths[1:]
        self.attentions = nn.ModuleList(GridAttention(width, heads or 1, norm) for width in attention_widths)
        self.resize = None if resize is None else resize(widths[-1])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, condition)
            if len(self.attentions):
                x = self.attentions[i](x, condition)
        return x if self.resize is None else self.resize(x)


@dataclass(frozen=True, kw_only=True)
class ConvStackConfig:
    """channels: of each level, the finest first; base: channels after the first convolution.

    attention: levels with attention after each block.  middle: attention between the two middle blocks.
    condition: channels of the codebook vectors that condition the norms of the decoder; None = plain group norms.
    pixels, pixels_out: channels of the input and of the output (None: the same).
    """

    channels: tuple[int, ...]
    base: int
    blocks: int = 2
    attention: tuple[int, ...] = ()
    middle: bool = True
    heads: int = 1
    pixels: int = 3
    latent: int = 256
    condition: int | None = None
    pixels_out: int | None = None

    def __post_init__(self) -> None:
        if not self.channels or self.blocks < 1:
            raise ConfigError(
                f"codec: expected at least one level and one block, found {self.channels} and {self.blocks}"
            )

    @property
    def factor(self) -> int:
        """Downsampling factor per side."""
        return 1 << len(self.channels) - 1

    def heads_at(self, level: int) -> int | None:
        """Attention heads at `level`, None without attention."""
        return self.heads if level in self.attention else None

    def build_encoder(self) -> "ConvEncoder":
        return ConvEncoder(self)

    def build_decoder(self) -> "ConvDecoder":
        return ConvDecoder(self)


def official_stack(config: Mapping[str, Any]) -> ConvStackConfig:
    """The `ddconfig` of taming-transformers, as latent diffusion and Unified-IO have it: `ch`, `ch_mult` ..."""
    base, resolutions = config["ch"], config.get("attn_resolutions") or ()
    sides = [config["resolution"] >> level for level in range(len(config["ch_mult"]))] if resolutions else []
    return ConvStackConfig(
        channels=tuple(base * each for each in config["ch_mult"]), base=base, blocks=config["num_res_blocks"],
        attention=tuple(level for level, side in enumerate(sides) if side in resolutions),
        pixels=config["in_channels"], pixels_out=config["out_ch"], latent=config["z_channels"],
    )  # fmt: skip


class ConvEncoder(nn.Module):
    """Pixels `[N, 3, H, W]` -> latents `[N, latent, H / factor, W / factor]`."""

    def __init__(self, config: ConvStackConfig):
        super().__init__()
        last = len(config.channels) - 1
        starts = (config.base, *config.channels)
        self.conv_in = nn.Conv2d(config.pixels, config.base, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                (starts[i], *(width,) * config.blocks),
                config.heads_at(i),
                GroupNorm,
                Downsample if i < last else None,
            )
            for i, width in enumerate(config.channels)
        )
        self.middle = MiddleBlock(config.channels[-1], config.heads if config.middle else None, GroupNorm)
        self.norm_out = GroupNorm(config.channels[-1])
        self.conv_out = nn.Conv2d(config.channels[-1], config.latent, 3, padding=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.conv_in(pixel_values)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class ConvDecoder(nn.Module):
    """Latents `[N, latent, h, w]`, and codebook vectors for conditioned norms, -> pixels `[N, 3, H, W]`."""

    def __init__(self, config: ConvStackConfig):
        super().__init__()

        def norm(channels: int) -> nn.Module:
            return GroupNorm(channels) if config.condition is None else SpatialNorm(channels, config.condition)

        widths = config.channels
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.middle = MiddleBlock(widths[-1], config.heads if config.middle else None, norm)
        starts = (*widths[1:], widths[-1])
        self.levels = nn.ModuleList(
            Level((starts[i], *(width,) * (config.blocks + 1)), config.heads_at(i), norm, Upsample if i else None)
            for i, width in enumerate(widths)
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.pixels_out or config.pixels, 3, padding=1)

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.middle(self.conv_in(latents), condition)
        for level in reversed(self.levels):
            x = level(x, condition)
        return self.conv_out(F.silu(self.norm_out(x, condition)))
