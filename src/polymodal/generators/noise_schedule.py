"""How much noise there is at each step of diffusion, and the way back (DDPM, arXiv 2006.11239).

    noisy(latents, noise, t)      sqrt(kept) * latents + sqrt(1 - kept) * noise
    previous(sample, noise, t)    the sample of the step before, out of the noise that a model sees in it

Stable Diffusion's betas: squares of equal steps between the roots of their ends.
Traps: fewer steps than were trained leap over some, and their variance is that of the leap; the last one adds no noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polymodal.errors import ConfigError


@dataclass(frozen=True)
class NoiseSchedule:
    """trained: steps of training."""

    trained: int = 1000
    first_beta: float = 0.00085
    last_beta: float = 0.012

    @cached_property
    def kept(self) -> Tensor:
        """float32 [trained] on the host: the share of a sample's variance that is left at each step."""
        betas = torch.linspace(self.first_beta**0.5, self.last_beta**0.5, self.trained, device="cpu") ** 2
        return (1 - betas).cumprod(0)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """latents, noise [N, ...], timesteps int64 [N]."""
        kept = self.kept.to(latents.device)[timesteps].to(latents.dtype)
        kept = kept.view(-1, *(1,) * (latents.dim() - 1))
        return kept.sqrt() * latents + (1 - kept).sqrt() * noise

    def times(self, count: int) -> list[int]:
        """The timesteps of `count` steps of drawing, the noisiest first."""
        if type(count) is not int or not 1 <= count <= self.trained:
            raise ConfigError(f"steps: expected 1 to {self.trained}, found {count}")
        leap = self.trained // count
        return [index * leap for index in reversed(range(count))]

    def previous(self, sample: Tensor, noise: Tensor, time: int, count: int, fresh: Tensor | None) -> Tensor:
        """The sample of the step before, of `count` steps.  noise: what is seen in the sample; fresh: normal noise."""
        before = time - self.trained // count
        kept = float(self.kept[time])
        kept_before = float(self.kept[before]) if before >= 0 else 1.0
        step = kept / kept_before
        clean = (sample - (1 - kept) ** 0.5 * noise) / kept**0.5
        mean = kept_before**0.5 * (1 - step) / (1 - kept) * clean + step**0.5 * (1 - kept_before) / (1 - kept) * sample
        if time == 0 or fresh is None:
            return mean
        return mean + max((1 - kept_before) / (1 - kept) * (1 - step), 1e-20) ** 0.5 * fresh
