"""How much noise there is at each step of diffusion, and the way back (DDPM, arXiv 2006.11239).

    noisy(latents, noise, t)      sqrt(kept) * latents + sqrt(1 - kept) * noise
    previous(sample, noise, t)    the sample of the step before, out of the noise that a model sees in it

How `kept` falls is a child (noise_shares.py), Stable Diffusion's where nobody says otherwise.
Traps: fewer steps than were trained leap over some, and their variance is that of the leap; the last one adds no noise.
Leading times end at 0 and begin below the last; trailing ones begin at the last, and may be more than were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generators.noise_shares import RootLinear, Shares

Spacing = Literal["leading", "trailing"]


@dataclass(frozen=True)
class NoiseSchedule:
    """trained: steps of training."""

    trained: int = 1000
    shares: Shares = field(default_factory=RootLinear)

    @cached_property
    def kept(self) -> Tensor:
        """float32 [trained] on the host: the share of a sample's variance that is left at each step."""
        return self.shares.kept(self.trained)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """latents, noise [N, ...], timesteps int64 [N]."""
        kept = self._at(timesteps, latents)
        return kept.sqrt() * latents + (1 - kept).sqrt() * noise

    def velocity(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(kept) noise - sqrt(1 - kept) latents."""
        kept = self._at(timesteps, latents)
        return kept.sqrt() * noise - (1 - kept).sqrt() * latents

    def _at(self, timesteps: Tensor, latents: Tensor) -> Tensor:
        kept = self.kept.to(latents.device)[timesteps].to(latents.dtype)
        return kept.view(-1, *(1,) * (latents.dim() - 1))

    def times(self, count: int, spacing: Spacing = "leading") -> list[int]:
        """The timesteps of `count` steps of drawing, the noisiest first."""
        if type(count) is not int or not 1 <= count <= self.trained:
            raise ConfigError(f"steps: expected 1 to {self.trained}, found {count}")
        leap = self.trained // count
        if spacing == "trailing":
            return [time - 1 for time in range(self.trained, 0, -leap)]
        return [index * leap for index in reversed(range(count))]

    def previous(self, sample: Tensor, noise: Tensor, time: int, count: int, fresh: Tensor | None) -> Tensor:
        """The sample of the step before, of `count` steps.  noise: what is seen in the sample; fresh: normal noise."""
        before = time - self.trained // count
        kept = float(self.kept[time])
        clean = (sample - (1 - kept) ** 0.5 * noise) / kept**0.5
        kept_before = float(self.kept[before]) if before >= 0 else 1.0
        return behind(sample, clean, (kept, kept_before), None if time == 0 else fresh)


def behind(sample: Tensor, clean: Tensor, kept: tuple[float, float], fresh: Tensor | None) -> Tensor:
    """The sample of the step before, drawn around its mean.  kept: at this step and at the one before."""
    now, before = kept
    step = now / before
    mean = before**0.5 * (1 - step) / (1 - now) * clean + step**0.5 * (1 - before) / (1 - now) * sample
    if fresh is None:
        return mean
    return mean + max((1 - before) / (1 - now) * (1 - step), 1e-20) ** 0.5 * fresh
