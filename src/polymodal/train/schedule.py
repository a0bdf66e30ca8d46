"""Learning rates over a stage as data: a schedule gives the factor of the peak rate at every step.

    warm-up   from warmup_start to 1 over warmup_steps, or over warmup_ratio of the stage
    then      Constant 1 · Cosine, Linear, Exponential down to `final` · WarmupStableDecay, which falls at the end alone
              · StepDecay down in stairs · Plateau

Plateau depends on validation scores, which no step knows: its factor is 1, and what evaluates multiplies by `reduced`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.errors import ConfigError
from polymodal.fields import check_fields


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The warm-up that all have.  warmup_steps, or warmup_ratio: share of the stage, rounded up.

    warmup_start: factor before the first step; 0 means that the first step already takes 1 / warmup_steps of the peak.
    """

    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.warmup_steps < 0 or not 0 <= self.warmup_ratio < 1 or (self.warmup_steps and self.warmup_ratio):
            raise ConfigError(
                f"{type(self).__name__}: give warmup_steps of 0 or more, or a warmup_ratio below 1; "
                f"found {self.warmup_steps} and {self.warmup_ratio}"
            )

    def warmup(self, total: int) -> int:
        """Steps of warm-up in a stage of `total` steps."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * total)

    def factor(self, step: int, total: int) -> float:
        """Share of the peak rate at `step`, 0-based, of `total`."""
        warmup = self.warmup(total)
        if step < warmup:
            return self.warmup_start + (1 - self.warmup_start) * (step + 1) / warmup
        return self.decay(min(1.0, (step - warmup) / max(1, total - warmup)))

    def decay(self, progress: float) -> float:
        """Share of the peak rate after the warm-up; progress: 0 at its end, 1 at the end of the stage."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak rate throughout."""

    def decay(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine down to `final` (arXiv 1608.03983, without restarts)."""

    final: float = 0.0

    def decay(self, progress: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """A straight line down to `final`."""

    final: float = 0.0

    def decay(self, progress: float) -> float:
        return 1 - (1 - self.final) * progress


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """The peak rate, and over the last `decay_ratio` of what follows the warm-up a straight line down to `final`
    (MiniCPM, arXiv 2404.06395)."""

    final: float = 0.0
    decay_ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay_ratio <= 1:
            raise ConfigError(
                f"WarmupStableDecay: decay_ratio must lie above 0 and at most at 1, found {self.decay_ratio}"
            )

    def decay(self, progress: float) -> float:
        return 1 - (1 - self.final) * max(0.0, 1 - (1 - progress) / self.decay_ratio)


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """final ** progress; `final` None: how far it falls was not published, and factor raises ConfigError."""

    final: float | None = None

    def decay(self, progress: float) -> float:
        if self.final is None:
            raise ConfigError("the exponential schedule has no published end: replace it by Exponential(final=...)")
        return float(self.final**progress)


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """Times `gamma` at the end of each of `periods` equal parts of the stage (epochs), never below `floor`."""

    gamma: float
    periods: int
    floor: float = 0.0

    def decay(self, progress: float) -> float:
        return max(self.floor, self.gamma ** math.floor(progress * self.periods))


@dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """Times `gamma` when the validation loss has not fallen by `threshold`, a share of it, for more than `patience`
    evaluations."""

    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4

    def decay(self, progress: float) -> float:
        return 1.0

    def reduced(self, losses: Sequence[float]) -> float:
        """The factor after these validation losses, oldest first; as torch's ReduceLROnPlateau."""
        factor, best, waited = 1.0, math.inf, 0
        for loss in losses:
            best, waited = (loss, 0) if loss < best * (1 - self.threshold) else (best, waited + 1)
            if waited > self.patience:
                factor, waited = factor * self.gamma, 0
        return factor
