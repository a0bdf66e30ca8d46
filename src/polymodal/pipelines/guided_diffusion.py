"""From a condition to pictures through noise: what a text encoder would say [Q, E] -> pixels, away from another.

    condition, negative [1, Q, E] -> for each time of the sampler: both seen in the latents -> guided -> next latents
    -> codec -> pixels

A `GuidedDiffusion` is called with the words of diffusers' StableDiffusionPipeline, in whose place it stands.
Traps: guidance of 1 or less asks for the condition alone; the first noise is drawn on the host, as the published
pipelines draw it from a generator of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generators.kl_codec import KLCodec
from polymodal.generators.samplers import SamplerConfig
from polymodal.generators.unet import UNet
from polymodal.pipelines.image_generation import Step, unseen

MOST = 1 << 21  # pixels of a picture


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pictures of one call."""

    images: list[Image.Image]


@dataclass(frozen=True)
class OwnPipelines:
    """make() -> by modality what draws conditions, of a model whose folder holds it; called when the first is drawn."""

    make: Callable[[], Mapping[str, Callable[..., Any]]]


@dataclass(frozen=True, kw_only=True)
class GuidedDiffusion:
    """unet, codec: (a tensor) -> the part, on its device and in its dtype.

    empty(tensor): what the text encoder says of an empty prompt [1, Q, E].  factor: pixels of a latent along a side.
    """

    unet: Callable[[Tensor], UNet]
    codec: Callable[[Tensor], KLCodec]
    empty: Callable[[Tensor], Tensor]
    sampler: SamplerConfig
    factor: int = 8

    def __call__(
        self,
        *,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        guidance_scale: float = 7.5,
        num_inference_steps: int = 50,
        width: int | None = None,
        height: int | None = None,
        generator: torch.Generator | None = None,
        step: Step = unseen,
    ) -> Drawn:
        """A picture of each condition [N, Q, E].  Raises ConfigError for sizes, steps or widths that do not fit."""
        with torch.inference_mode():
            latents = self.latents(
                prompt_embeds, negative_prompt_embeds, guidance=guidance_scale, steps=num_inference_steps,
                size=None if width is None or height is None else (width, height), generator=generator, step=step,
            )  # fmt: skip
            pixels = (self.codec(latents).decode(latents) / 2 + 0.5).clamp(0, 1).movedim(1, -1).float().cpu()
        return Drawn(images=[Image.fromarray(each.numpy()) for each in (pixels * 255).round().to(torch.uint8)])

    def latents(
        self,
        condition: Tensor,
        negative: Tensor | None = None,
        *,
        guidance: float = 7.5,
        steps: int = 50,
        size: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        step: Step = unseen,
    ) -> Tensor:
        """Latents [N, C, h, w] for conditions [N, Q, E].  size: (width, height) in pixels; negative None: `empty`."""
        walk = self.sampler.start(steps)
        unet = self.unet(condition)
        if condition.dim() != 3 or condition.shape[-1] != unet.config.context:
            expected = f"[N, Q, {unet.config.context}]"
            raise ConfigError(f"diffusion: expected a condition {expected}, found {list(condition.shape)}")
        guided = guidance > 1
        if guided:
            away = self.empty(condition) if negative is None else negative
            condition = torch.cat((away.expand_as(condition), condition))
        count = len(condition) // 2 if guided else len(condition)
        shape = (count, unet.config.latent, *self.grid(unet, size))
        latents = torch.randn(shape, generator=generator, dtype=condition.dtype).to(condition.device)
        for number, time in enumerate(walk.times):
            times = torch.full((len(condition),), time, device=condition.device)
            if guided:
                low, high = unet(latents.repeat(2, 1, 1, 1), times, condition).chunk(2)
                seen = low + guidance * (high - low)
            else:
                seen = unet(latents, times, condition)
            latents = walk.step(seen, latents)
            step(number + 1, len(walk.times))
        return latents

    def grid(self, unet: UNet, size: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width in latents.  Raises ConfigError."""
        if size is None:
            return unet.config.side, unet.config.side
        width, height = size
        unit = self.factor * unet.config.factor
        if width < 1 or height < 1 or width % unit or height % unit or width * height > MOST:
            sides = f"sides in multiples of {unit} pixels, {MOST:,} pixels in all"
            raise ConfigError(f"size {width}x{height}: expected {sides}")
        return height // self.factor, width // self.factor
