"""From noise to samples in few steps: DDIM (arXiv 2010.02502), DDPM, PNDM without Runge-Kutta (PLMS, 2202.09778).

    sampler.start(steps) -> Walk: `times`, and for each of them `step(seen in the sample, sample)` -> the next sample

`parse_config` reads diffusers' scheduler_config.json; Stable Diffusion 1.5 and 2.1 publish PNDM.
Traps: PNDM looks once more than it has steps, twice at its second time, and starts anew from the first sample then; the
last step ends at the share of the first time, not at 1, unless `set_alpha_to_one`.  Where nothing is left of a sample
at the last time, the noise in it tells nothing; such models see the clean sample or the velocity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generators.noise_schedule import NoiseSchedule, Spacing, behind
from polymodal.generators.noise_shares import RootLinear

Sight = Literal["noise", "velocity", "clean"]
Fresh = Callable[[Tensor], Tensor]
"""a sample -> normal noise of its shape"""

MULTISTEP = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of what was seen, the newest first, by how much there is (Adams-Bashforth)."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """kind: "ddim", "pndm" or "ddpm".  offset: added to each time.  last: the share of the sample behind the last step.

    sees: what the model tells of a sample; velocity is sqrt(kept) noise - sqrt(1 - kept) sample.  clip: bound of what
    DDIM and DDPM take for the clean sample.  spacing: of the times.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    kind: str = "pndm"
    offset: int = 1
    last: float | None = None
    sees: Sight = "noise"
    clip: float | None = None
    spacing: Spacing = "leading"

    def start(self, steps: int) -> Walk:
        """Raises ConfigError for a number of steps that the schedule does not have."""
        return KINDS[self.kind](self, steps)

    def kept(self, time: int) -> float:
        """The share of variance at a time; behind the last one, that of the end."""
        if time >= 0:
            return float(self.schedule.kept[time])
        return float(self.schedule.kept[0]) if self.last is None else self.last


class Walk:
    """One way from noise to a sample; holds what was seen on it.  times: where the model is asked, in order."""

    times: tuple[int, ...]

    def __init__(self, config: SamplerConfig, steps: int) -> None:
        self.config = config
        self.steps = [time + config.offset for time in config.schedule.times(steps, config.spacing)]
        if self.steps[0] >= config.schedule.trained:
            raise ConfigError(f"steps: expected 1 to {config.schedule.trained - config.offset}, found {steps}")
        self.leap = config.schedule.trained // steps
        self.times = tuple(self.steps)
        self.done = 0

    def step(self, seen: Tensor, sample: Tensor, fresh: Fresh | None = None) -> Tensor:
        """The sample behind the next of `times`, of what the model saw in `sample` there.  fresh: where noise comes
        from, of ways that add some."""
        raise NotImplementedError

    def noise(self, seen: Tensor, sample: Tensor, kept: float) -> Tensor:
        """The noise in a sample, whatever the model sees."""
        if self.config.sees == "velocity":
            return kept**0.5 * seen + (1 - kept) ** 0.5 * sample
        return seen if self.config.sees == "noise" else (sample - kept**0.5 * seen) / (1 - kept) ** 0.5

    def clean(self, seen: Tensor, sample: Tensor, kept: float) -> Tensor:
        """What is behind the noise, within bounds."""
        if self.config.sees == "velocity":
            seen = kept**0.5 * sample - (1 - kept) ** 0.5 * seen
        elif self.config.sees == "noise":
            seen = (sample - (1 - kept) ** 0.5 * seen) / kept**0.5
        return seen if self.config.clip is None else seen.clamp(-self.config.clip, self.config.clip)


class DDIM(Walk):
    """Without fresh noise."""

    def step(self, seen: Tensor, sample: Tensor, fresh: Fresh | None = None) -> Tensor:
        time = self.times[self.done]
        self.done += 1
        kept, before = self.config.kept(time), self.config.kept(time - self.leap)
        clean, noise = self.clean(seen, sample, kept), self.noise(seen, sample, kept)
        return before**0.5 * clean + (1 - before) ** 0.5 * noise


class DDPM(Walk):
    """With fresh noise, but for the last step."""

    def step(self, seen: Tensor, sample: Tensor, fresh: Fresh | None = None) -> Tensor:
        time = self.times[self.done]
        self.done += 1
        kept = self.config.kept(time), self.config.kept(time - self.leap)
        clean = self.clean(seen, sample, kept[0])
        return behind(sample, clean, kept, None if time == 0 or fresh is None else fresh(sample))


class PNDM(Walk):
    """See the module docstring."""

    def __init__(self, config: SamplerConfig, steps: int) -> None:
        super().__init__(config, steps)
        self.times = (*self.steps[:2], *self.steps[1:])
        self.seen: list[Tensor] = []
        self.first: Tensor | None = None

    def step(self, seen: Tensor, sample: Tensor, fresh: Fresh | None = None) -> Tensor:
        time, before = self.times[self.done], self.times[self.done] - self.leap
        if self.done == 1:  # the first step again, with the mean of what is seen at both of its ends
            assert self.first is not None
            time, before = before + 2 * self.leap, time
            guess, sample = (seen + self.seen[-1]) / 2, self.first
        else:
            self.first = sample if not self.done else None
            self.seen = [*self.seen[-3:], seen]
            weights = MULTISTEP[len(self.seen) - 1]
            guess = sum((w * x for w, x in zip(weights, reversed(self.seen), strict=True)), start=seen * 0)
        self.done += 1
        return self.moved(guess, sample, self.config.kept(time), self.config.kept(before))

    def moved(self, guess: Tensor, sample: Tensor, kept: float, before: float) -> Tensor:
        """The sample at another share of variance (formula 9 of PNDM)."""
        noise = self.noise(guess, sample, kept)
        scale = kept * (1 - before) ** 0.5 + (kept * (1 - kept) * before) ** 0.5
        return (before / kept) ** 0.5 * sample - (before - kept) / scale * noise


KINDS: dict[str, type[Walk]] = {"ddim": DDIM, "pndm": PNDM, "ddpm": DDPM}
EXPECTED = {"beta_schedule": "scaled_linear", "timestep_spacing": "leading", "trained_betas": None,
            "thresholding": False, "rescale_betas_zero_snr": False}  # fmt: skip
DEFAULTS = {"timestep_spacing": "leading", "beta_schedule": "linear"}
PREDICTIONS: dict[str, Sight] = {"epsilon": "noise", "v_prediction": "velocity"}


def parse_config(config: Mapping[str, Any]) -> SamplerConfig:
    """A scheduler_config.json.  Raises ConfigError for another class or option than the ones that are here."""
    kind = {"PNDMScheduler": "pndm", "DDIMScheduler": "ddim"}.get(str(config.get("_class_name")))
    if kind is None:
        raise ConfigError(f"scheduler: expected PNDMScheduler or DDIMScheduler, found {config.get('_class_name')!r}")
    for name, value in EXPECTED.items():
        if (found := config.get(name, DEFAULTS.get(name, value))) != value:
            raise ConfigError(f"scheduler: {name}: expected {value!r}, found {found!r}")
    if kind == "pndm" and not config.get("skip_prk_steps", False):
        raise ConfigError("scheduler: skip_prk_steps: expected true, as Stable Diffusion has it, found false")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ConfigError(f"scheduler: prediction_type: expected {' or '.join(PREDICTIONS)}, found {prediction!r}")
    clip = kind == "ddim" and config.get("clip_sample", True)
    whole = config.get("set_alpha_to_one", kind == "ddim")
    return SamplerConfig(
        schedule=NoiseSchedule(config.get("num_train_timesteps", 1000),
                               RootLinear(config.get("beta_start", 0.0001), config.get("beta_end", 0.02))),
        kind=kind, offset=config.get("steps_offset", 0), last=1.0 if whole else None,
        sees=PREDICTIONS[prediction], clip=config.get("clip_sample_range", 1.0) if clip else None,
    )  # fmt: skip
