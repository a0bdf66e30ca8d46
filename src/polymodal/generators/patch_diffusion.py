"""Pictures from the codes of their places, by diffusion over patches of pixels (DiVAE, arXiv 2206.00386, and 4M).

    noised [N, C, H, W] -> patches [N, C p p, H/p, W/p] ++ codes [N, D, h, w], each repeated -> U-Net -> [N, C, H, W]
    draw(codes): normal noise -> steps back (samplers.py) -> pictures whose side is h times the pixels of a place

Traps: what the U-Net tells (the clean picture, noise or velocity) says the sampler's config; sides are multiples of the
patch times the U-Net's own factor; noise is drawn on the host, first the batch, then for each step that wants some.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.generators.samplers import SamplerConfig
from polymodal.generators.unet import UNetConfig


@dataclass(frozen=True, kw_only=True)
class PatchUNetSizes:
    """The U-Net.  width: of the finest level; multipliers: of each level; attends: whether places see each other there.
    patch: side of what it sees as one place."""

    width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    attends: tuple[bool, ...] = (False, False, True, True)
    blocks: int = 3
    patch: int = 4


@dataclass(frozen=True, kw_only=True)
class PatchDiffusionConfig:
    """channels: of pictures.  codes: their width.  place: pixels of a code's side.  steps: of drawing, where nobody
    says."""

    channels: int
    codes: int
    place: int
    sizes: PatchUNetSizes = PatchUNetSizes()
    sampler: SamplerConfig
    steps: int = 25

    def __post_init__(self) -> None:
        if self.sizes.multipliers[:1] != (1,):
            raise ConfigError(f"unet: the first multiplier is 1, found {self.sizes.multipliers}")
        self.sampler.schedule.times(self.steps)

    @property
    def unet(self) -> UNetConfig:
        sizes, inner = self.sizes, self.channels * self.sizes.patch**2
        return UNetConfig(
            widths=tuple(sizes.width * each for each in sizes.multipliers), heads=(1,) * len(sizes.multipliers),
            attends=sizes.attends, context=0, blocks=sizes.blocks, latent=inner + self.codes, latent_out=inner,
        )  # fmt: skip

    def build(self) -> PatchDiffusion:
        return PatchDiffusion(self)


class PatchDiffusion(nn.Module):
    """See the module docstring."""

    def __init__(self, config: PatchDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = config.unet.build()

    def forward(self, noised: Tensor, timesteps: Tensor, codes: Tensor) -> Tensor:
        """What is seen in `noised` [N, C, H, W] at `timesteps` [N].  Raises PromptError for sides that do not fit."""
        patch, channels = self.config.sizes.patch, self.config.channels
        whole = patch * self.config.unet.factor
        if noised.dim() != 4 or noised.shape[1] != channels or noised.shape[2] % whole or noised.shape[3] % whole:
            raise PromptError(f"codec: pictures that are drawn are [N, {channels}, H, W] with sides in multiples of "
                              f"{whole}, found {list(noised.shape)}")  # fmt: skip
        patches = F.pixel_unshuffle(noised, patch)
        repeated = F.interpolate(codes, size=patches.shape[2:], mode="nearest")
        return F.pixel_shuffle(self.unet(torch.cat((patches, repeated), 1), timesteps), patch)

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What is to be seen in a clean picture and noise at `timesteps` [N]."""
        sees = self.config.sampler.sees
        if sees == "velocity":
            return self.config.sampler.schedule.velocity(clean, noise, timesteps)
        return clean if sees == "clean" else noise

    @torch.no_grad()
    def draw(self, codes: Tensor, *, seed: int = 0, steps: int | None = None) -> Tensor:
        """Pictures [N, C, H, W] of codes [N, D, h, w].  Raises ConfigError for steps that no schedule has."""
        config, draws = self.config, torch.Generator("cpu").manual_seed(seed)
        walk = config.sampler.start(config.steps if steps is None else steps)
        shape = (len(codes), config.channels, *(config.place * side for side in codes.shape[2:]))
        sample = torch.randn(shape, generator=draws, device="cpu").to(codes.device)

        def fresh(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=draws, device="cpu").to(like.device)

        for time in walk.times:
            times = torch.full((len(codes),), time, device=codes.device)
            sample = walk.step(self(sample.to(codes.dtype), times, codes).float(), sample, fresh)
        return sample
