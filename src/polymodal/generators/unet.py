"""The U-Net of Stable Diffusion (arXiv 2112.10752): the noise in a grid of latents, asked with words.

    latents [N, C, h, w] -> conv -> levels down (blocks, each with attention to the words; stride 2) -> middle
        -> levels up (blocks that also get what went down) -> norm, conv -> noise [N, C, h, w]
    timesteps [N] -> cosines and sines -> 2 linears -> added in every residual block
    context [N, T, E] -> keys and values of the cross-attention in every level but the coarsest; a U-Net without words
    lets places see each other there, and that is all

Key tables: the names of diffusers' UNet2DConditionModel, whose config `parse_config` reads.
Traps: cosines come before sines; what published configs call `attention_head_dim` is the number of heads; stride 2 pads
all four sides here, other than in the codec; two epsilons, 1e-5 in blocks and 1e-6 in front of attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generators.conv_stack import Upsample
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig

TIME = 4  # the width of a time is that of the finest level times this


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """widths, heads, attends: of each level, the finest first.  blocks: of each level on the way down.

    context: width of the words, 0 without any.  latent, latent_out: channels in and out.  side: of the usual grid of
    latents.  groups: of the norms.
    """

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    attends: tuple[bool, ...]
    context: int
    blocks: int = 2
    latent: int = 4
    latent_out: int = 4
    side: int = 64
    groups: int = 32

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.heads) == len(self.attends) > 0 or self.blocks < 1:
            raise ConfigError(f"unet: expected as many heads as widths, found {self.heads} for {self.widths}")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % self.groups or width % heads:
                raise ConfigError(f"unet: width {width} must be a multiple of {self.groups} groups and {heads} heads")

    @property
    def factor(self) -> int:
        """Sides of a grid of latents are multiples of it."""
        return 1 << len(self.widths) - 1

    @property
    def sizes(self) -> UNetSizes:
        return UNetSizes(groups=self.groups, time=TIME * self.widths[0], context=self.context)

    def attention(self, level: int) -> nn.Module:
        """`x, context -> x` for a level."""
        if not self.context:
            return PlaceAttention(self.widths[level], self.heads[level], self.sizes)
        return WordAttention(self.widths[level], self.heads[level], self.sizes)

    def build(self) -> UNet:
        return UNet(self)


@dataclass(frozen=True, kw_only=True)
class UNetSizes:
    """What all layers of a U-Net share.  groups: of the norms; time, context: widths of what they are told."""

    groups: int
    time: int
    context: int


class TimedBlock(nn.Module):
    """Twice norm, swish, conv, with the time added between.  `[N, C, h, w], [N, D] -> [N, C', h, w]`"""

    def __init__(self, channels: int, out_channels: int, sizes: UNetSizes) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(sizes.groups, channels, 1e-5)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time_proj = nn.Linear(sizes.time, out_channels)
        self.norm2 = nn.GroupNorm(sizes.groups, out_channels, 1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = None if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time_proj(F.silu(time))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class WordAttention(nn.Module):
    """Every place sees all places, then the words.  `[N, C, h, w], [N, T, E] -> [N, C, h, w]`"""

    def __init__(self, channels: int, heads: int, sizes: UNetSizes) -> None:
        super().__init__()
        plain = AttentionConfig(width=channels, heads=heads, out_bias=True)
        self.norm = nn.GroupNorm(sizes.groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.attn_norm, self.attn = nn.LayerNorm(channels), plain.build()
        self.cross_norm = nn.LayerNorm(channels)
        self.cross = AttentionConfig(width=channels, heads=heads, out_bias=True, source_width=sizes.context).build()
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = GatedMLPConfig(width=channels, ffn_width=4 * channels, activation="gelu", bias=True).build()
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        y = y + self.attn(self.attn_norm(y))
        y = y + self.cross(self.cross_norm(y), source=context)
        y = self.proj_out(y + self.mlp(self.mlp_norm(y)))
        return x + y.transpose(1, 2).reshape(x.shape)


class PlaceAttention(nn.Module):
    """Every place sees all places; there are no words.  `[N, C, h, w], None -> [N, C, h, w]`"""

    def __init__(self, channels: int, heads: int, sizes: UNetSizes) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(sizes.groups, channels, 1e-5)
        self.attn = AttentionConfig(width=channels, heads=heads, qkv_bias=True, out_bias=True).build()

    def forward(self, x: Tensor, context: None) -> Tensor:
        places = self.attn(self.norm(x).flatten(2).transpose(1, 2))
        return x + places.transpose(1, 2).reshape(x.shape)


class UNetLevel(nn.Module):
    """Blocks of one resolution, and what changes it (None at the end of a way).  widths: (in, out) of each block."""

    resize: nn.Module | None

    def __init__(self, level: int, widths: list[tuple[int, int]], config: UNetConfig, resize: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimedBlock(a, b, config.sizes) for a, b in widths)
        count = len(widths) if config.attends[level] else 0
        self.attentions = nn.ModuleList(config.attention(level) for _ in range(count))
        self.resize = resize

    def block(self, index: int, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """One block and its attention."""
        x = self.blocks[index](x, time)
        return self.attentions[index](x, context) if len(self.attentions) else x


class DownLevel(UNetLevel):
    """`x, time, context` -> the states behind each block and, where there is one, the convolution of stride 2."""

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> list[Tensor]:
        states = []
        for index in range(len(self.blocks)):
            x = self.block(index, x, time, context)
            states.append(x)
        return states if self.resize is None else [*states, self.resize(x)]


class UpLevel(UNetLevel):
    """`x, held, time, context` -> the next x; takes the last states that went down off `held`."""

    def forward(self, x: Tensor, held: list[Tensor], time: Tensor, context: Tensor | None) -> Tensor:
        for index in range(len(self.blocks)):
            x = self.block(index, torch.cat((x, held.pop()), 1), time, context)
        return x if self.resize is None else self.resize(x)


class UNetMiddle(nn.Module):
    """Block, attention, block, at the coarsest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.first, self.second = TimedBlock(width, width, config.sizes), TimedBlock(width, width, config.sizes)
        self.attention = config.attention(-1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        return self.second(self.attention(self.first(x, time), context), time)


class UNet(nn.Module):
    """See the module docstring."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.time_in = nn.Linear(widths[0], TIME * widths[0])
        self.time_out = nn.Linear(TIME * widths[0], TIME * widths[0])
        self.downs, held, width = nn.ModuleList(), [widths[0]], widths[0]
        for level, out in enumerate(widths):
            pairs = [(width if not i else out, out) for i in range(config.blocks)]
            shrink = nn.Conv2d(out, out, 3, stride=2, padding=1) if level < last else None
            self.downs.append(DownLevel(level, pairs, config, shrink))
            held += [out] * (config.blocks + int(level < last))
            width = out
        self.middle = UNetMiddle(config)
        self.ups = nn.ModuleList()  # the coarsest first
        for level, out in reversed(list(enumerate(widths))):
            pairs = []
            for _ in range(config.blocks + 1):
                pairs.append((width + held.pop(), out))
                width = out
            self.ups.append(UpLevel(level, pairs, config, Upsample(out) if level else None))
        self.norm_out = nn.GroupNorm(config.groups, widths[0], 1e-5)
        self.conv_out = nn.Conv2d(widths[0], config.latent_out, 3, padding=1)

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        """The noise in `latents` [N, C, h, w] at `timesteps` [N].  Raises ConfigError for sides that do not fit."""
        factor = self.config.factor
        if latents.shape[-2] % factor or latents.shape[-1] % factor:
            raise ConfigError(f"unet: sides of latents must be multiples of {factor}, found {list(latents.shape[-2:])}")
        time = self.time_out(F.silu(self.time_in(waves(timesteps, self.config.widths[0]).to(latents.dtype))))
        held = [self.conv_in(latents)]
        for down in self.downs:
            held += down(held[-1], time, context)
        x = self.middle(held[-1], time, context)
        for up in self.ups:
            x = up(x, held, time, context)
        return self.conv_out(F.silu(self.norm_out(x)))


def waves(timesteps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of timesteps [N] -> float32 [N, width]."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=timesteps.device).float() * (-math.log(10000) / half))
    angles = timesteps[:, None].float() * rates
    return torch.cat((angles.cos(), angles.sin()), 1)


def parse_config(config: Mapping[str, Any]) -> UNetConfig:
    """The config.json of a UNet2DConditionModel; raises ConfigError for other blocks than Stable Diffusion's."""
    downs = config.get("down_block_types") or (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    ups = config.get("up_block_types") or ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    attends = tuple(name == "CrossAttnDownBlock2D" for name in downs)
    for name in (*downs, *ups):
        if name not in {f"{cross}{way}Block2D" for cross in ("CrossAttn", "") for way in ("Down", "Up")}:
            raise ConfigError(f"unet: block type {name!r} is not supported")
    if tuple(name == "CrossAttnUpBlock2D" for name in reversed(ups)) != attends:
        raise ConfigError(f"unet: expected up_block_types to mirror down_block_types, found {list(ups)}")
    widths = tuple(config.get("block_out_channels") or (320, 640, 1280, 1280))
    heads = config.get("attention_head_dim", 8)
    return UNetConfig(
        widths=widths, heads=(heads,) * len(widths) if isinstance(heads, int) else tuple(heads), attends=attends,
        context=config.get("cross_attention_dim", 1280), blocks=config.get("layers_per_block", 2),
        latent=config.get("in_channels", 4), latent_out=config.get("out_channels", 4),
        side=config.get("sample_size") or 64, groups=config.get("norm_num_groups", 32),
    )  # fmt: skip
