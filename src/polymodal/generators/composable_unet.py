"""The U-Nets of Composable Diffusion (CoDi, arXiv 2305.11846): pictures and videos, sounds, and texts as one vector.

    latents -> steps down -> middle -> steps up, each: block with the time, frames, attention to the condition,
               another resolution, attention to the environment vector
    environment vector [N, 1, E], unit length: a small way down from the same latents, its mean over all places
    grids [N, C, h, w], videos [N, C, F, h, w]; a text [N, C] is a grid of `places` x 1, whose blocks are linears

A video goes through frame by frame, but for `FrameStep`; a picture through the same U-Net leaves that out.
Traps: the published code lets every modality look at its OWN environment vector, whatever the paper draws, and only
where several are made at once; so U-Nets that share a timestep do not otherwise meet.  Its first step up also gets
the middle's output twice, not what went down last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generators.composable_layers import LayerKind
from polymodal.generators.unet import TIME, UNetSizes, WordAttention, waves


@dataclass(frozen=True, kw_only=True)
class ComposableUNetConfig:
    """multipliers, blocks, attends, joins: of each level, the finest first; joins: where the environment is looked at.

    environment, environment_blocks: of the levels of its own way; environment_width: of its vector.
    """

    layers: LayerKind
    latent: int
    width: int
    multipliers: tuple[int, ...]
    blocks: tuple[int, ...]
    attends: tuple[bool, ...]
    joins: tuple[bool, ...]
    environment: tuple[int, ...]
    environment_blocks: tuple[int, ...]
    context: int
    environment_width: int = 1280
    heads: int = 8

    def __post_init__(self) -> None:
        counts = {len(each) for each in (self.multipliers, self.blocks, self.attends, self.joins)}
        if len(counts) != 1 or 0 in counts or len(self.environment) != len(self.environment_blocks):
            raise ConfigError(f"unet: expected one number of blocks for each level, found {self.blocks} for "
                              f"{self.multipliers} and {self.environment_blocks} for {self.environment}")  # fmt: skip
        for width in (self.width // 2, *(self.width * each for each in (*self.multipliers, *self.environment))):
            if width % 32 or width % self.heads:
                raise ConfigError(f"unet: width {width} must be a multiple of 32 and of {self.heads} heads")

    @property
    def factor(self) -> int:
        """Sides of a grid of latents are multiples of it."""
        return 1 << len(self.multipliers) - 1

    def sizes(self, context: int) -> UNetSizes:
        return UNetSizes(groups=32, time=TIME * self.width, context=context)

    def build(self) -> ComposableUNet:
        return ComposableUNet(self)


class Step(nn.Module):
    """One of the published list of blocks; a child that it does not have is None."""

    block: nn.Module | None
    film: nn.Module | None
    words: nn.Module | None
    resize: nn.Module | None
    join: nn.Module | None

    def __init__(self, **children: nn.Module | None) -> None:
        super().__init__()
        for name in ("block", "film", "words", "resize", "join"):
            setattr(self, name, children.get(name))

    def forward(self, x: Tensor, time: Tensor, context: Tensor, frames: int, environment: Tensor | None) -> Tensor:
        """frames: 0 for what is no video.  environment [N, 1, E], None where it is not looked at."""
        if self.block is not None:
            x = self.block(x, time)
        if self.film is not None and frames:
            x = self.film(x, frames)
        if self.words is not None:
            x = self.words(x, context)
        if self.resize is not None:
            x = self.resize(x)
        if self.join is not None and environment is not None:
            x = self.join(x, environment)
        return x


def make_step(config: ComposableUNetConfig, level: int, wide: tuple[int, int], resize: nn.Module | None = None) -> Step:
    """A step with a block from width to width."""
    layers, width = config.layers, wide[1]
    words = WordAttention(width, config.heads, config.sizes(config.context)) if config.attends[level] else None
    env = config.sizes(config.environment_width)
    join = WordAttention(width, config.heads, env) if config.joins[level] else None
    return Step(block=layers.block(*wide, config.sizes(config.context)), film=layers.film(width), words=words,
                resize=resize, join=join)  # fmt: skip


class EnvironmentEncoder(nn.Module):
    """What else is being made, as a vector: latents -> `[N, 1, E]` of unit length."""

    def __init__(self, config: ComposableUNetConfig) -> None:
        super().__init__()
        layers, width = config.layers, config.width // 2
        sizes = config.sizes(config.context)
        self.steps = nn.ModuleList([Step(resize=layers.enter(config.latent, width))])
        for level, (multiplier, count) in enumerate(zip(config.environment, config.environment_blocks, strict=True)):
            for _ in range(count):
                out = multiplier * config.width
                self.steps.append(Step(block=layers.block(width, out, sizes), film=layers.film(out)))
                width = out
            if level < len(config.environment) - 1:
                self.steps.append(Step(resize=layers.shrink(width)))
        self.norm_out = nn.GroupNorm(32, width)
        self.conv_out = layers.leave(width, config.environment_width)

    def forward(self, x: Tensor, time: Tensor, context: Tensor, frames: int) -> Tensor:
        for step in self.steps:
            x = step(x, time, context, frames, None)
        x = self.conv_out(F.silu(self.norm_out(x))).mean((2, 3))
        if frames:
            x = x.unflatten(0, (-1, frames)).mean(1)
        return F.normalize(x, dim=-1)[:, None]


class UNetMiddle(nn.Module):
    """Block, attention, block, at the coarsest resolution, each block with its frames."""

    def __init__(self, config: ComposableUNetConfig, width: int) -> None:
        super().__init__()
        sizes, layers = config.sizes(config.context), config.layers
        self.first = Step(block=layers.block(width, width, sizes), film=layers.film(width))
        self.words = WordAttention(width, config.heads, sizes)
        self.second = Step(block=layers.block(width, width, sizes), film=layers.film(width))

    def forward(self, x: Tensor, time: Tensor, context: Tensor, frames: int) -> Tensor:
        x = self.words(self.first(x, time, context, frames, None), context)
        return self.second(x, time, context, frames, None)


class ComposableUNet(nn.Module):
    """See the module docstring."""

    def __init__(self, config: ComposableUNetConfig) -> None:
        super().__init__()
        self.config = config
        layers, width, last = config.layers, config.width, len(config.multipliers) - 1
        self.time_in = nn.Linear(width, TIME * width)
        self.time_out = nn.Linear(TIME * width, TIME * width)
        self.environment = EnvironmentEncoder(config)
        self.downs, held = nn.ModuleList([Step(resize=layers.enter(config.latent, width))]), [width]
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks[level]):
                self.downs.append(make_step(config, level, (width, multiplier * config.width)))
                width = multiplier * config.width
                held.append(width)
            if level < last:
                self.downs.append(Step(resize=layers.shrink(width)))
                held.append(width)
        self.middle = UNetMiddle(config, width)
        self.ups = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            out = multiplier * config.width
            for index in range(config.blocks[level] + 1):
                grows = level > 0 and index == config.blocks[level]
                wide = (width + held.pop(), out)
                self.ups.append(make_step(config, level, wide, layers.grow(out) if grows else None))
                width = out
        self.norm_out = nn.GroupNorm(32, width)
        self.conv_out = layers.leave(width, config.latent)

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor, joint: bool = False) -> Tensor:
        """The noise in `latents` at `timesteps` [N]; joint: with its environment vector.  Raises ConfigError."""
        x, time, context, frames = self._inputs(latents, timesteps, context)
        environment = self.environment(x, time, context, frames) if joint else None
        if environment is not None and frames:
            environment = environment.repeat_interleave(frames, 0)
        held = []
        for step in self.downs:
            x = step(x, time, context, frames, environment)
            held.append(x)
        x = held[-1] = self.middle(x, time, context, frames)
        for step in self.ups:
            x = step(torch.cat((x, held.pop()), 1), time, context, frames, environment)
        x = self.conv_out(F.silu(self.norm_out(x)))
        if frames:
            x = x.unflatten(0, (-1, frames)).transpose(1, 2)
        return x.reshape(latents.shape)

    def surroundings(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The environment vector [N, E] alone."""
        return self.environment(*self._inputs(latents, timesteps, context))[:, 0]

    def _inputs(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        self._check(latents)
        frames = latents.shape[2] if latents.dim() == 5 else 0
        time = waves(timesteps, self.config.width).to(latents.dtype)
        time = self.time_out(F.silu(self.time_in(time)))
        x = latents[:, :, None, None] if latents.dim() == 2 else latents
        if frames:
            x = x.transpose(1, 2).flatten(0, 1)
            time, context = time.repeat_interleave(frames, 0), context.repeat_interleave(frames, 0)
        return x, time, context, frames

    def _check(self, latents: Tensor) -> None:
        ranks, factor, shape = self.config.layers.ranks, self.config.factor, list(latents.shape)
        if latents.dim() not in ranks or latents.shape[1] != self.config.latent:
            wanted = {2: "[N, {}]", 4: "[N, {}, h, w]", 5: "[N, {}, F, h, w]"}
            forms = " or ".join(wanted[rank].format(self.config.latent) for rank in ranks)
            raise ConfigError(f"unet: expected latents {forms}, found {shape}")
        if latents.dim() > 2 and any(side % factor for side in shape[-2:]):
            raise ConfigError(f"unet: sides of latents must be multiples of {factor}, found {shape[-2:]}")
