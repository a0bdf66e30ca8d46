"""A number about a data set, from what each sample adds to it; its 95 % interval by the bootstrap over samples.

    Metric.read(samples) -> found               what metrics share: walks, ranks, words; the samples where it is nothing
    Metric.rows(found) -> float64 [N, K]        what each sample adds: a score; errors and words; matches and lengths
    Metric.total(rows [M, K]) -> value          of any choice of rows, so also of a resampled set
    all_measured(metrics, samples)              each: value, interval (percentiles of `RESAMPLED` sets of N samples), N

Sums come first and their quotient after, as corpus scores (word error rate, BLEU) are defined.  What a whole corpus
tells of each sample (CIDEr's document frequencies) is part of `rows`, and stays as it is when samples are resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymodal.errors import ConfigError

RESAMPLED = 1000


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One sample with what a model gave for it.  record: the fields of the data; prediction: by the task's rule."""

    record: Mapping[str, Any]
    prediction: Any


Rows = Callable[[Any], np.ndarray]
Total = Callable[[np.ndarray], float]


def each(score: Callable[[Scored], float]) -> Rows:
    """Rows of a score of one sample alone, [N, 1]."""
    return lambda samples: np.array([score(sample) for sample in samples], np.float64)[:, None]


def as_they_are(samples: Sequence[Scored]) -> Sequence[Scored]:
    """What a metric reads that shares nothing with another."""
    return samples


def nothing() -> str:
    """What a metric lacks that needs nothing but this package."""
    return ""


def anything(record: Mapping[str, Any]) -> None:
    """What a metric asks of a record that takes any."""


def mean(rows: np.ndarray) -> float:
    """The mean of the first column; nan of no rows."""
    return float(rows[:, 0].mean()) if len(rows) else float("nan")


def quotient(rows: np.ndarray) -> float:
    """The sum of the first column over that of the second; nan where that is zero."""
    return float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].sum() else float("nan")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """See the module.  best: "high" or "low"; by the first column samples are ordered in the list of the worst.

    read: metrics with the same one are given what it found once.  asks: raises ConfigError for a record that this
    metric cannot use, before a model is asked.  lacks: the program or package that it needs and that is not here, in
    words; the metric is then left out.  resampled: sets that the interval is taken from; 0 for a metric whose
    value depends on how many samples there are.
    """

    name: str
    rows: Rows
    total: Total = mean
    best: str = "high"
    resampled: int = RESAMPLED
    read: Callable[[Sequence[Scored]], Any] = as_they_are
    asks: Callable[[Mapping[str, Any]], object] = anything
    lacks: Callable[[], str] = nothing

    def of(self, samples: Sequence[Scored]) -> np.ndarray:
        """The rows of these samples."""
        return self.rows(self.read(samples))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """value, with a 95 % interval; n samples; rows [N, K] as the metric gave them."""

    name: str
    value: float
    low: float
    high: float
    n: int
    rows: np.ndarray

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} ({self.low:.4g} to {self.high:.4g}, n={self.n})"


def measured(metric: Metric, samples: Sequence[Scored], seed: int = 0) -> Measured:
    """The metric of these samples.  Raises ConfigError without any."""
    return all_measured((metric,), samples, seed)[0]


def all_measured(metrics: Sequence[Metric], samples: Sequence[Scored], seed: int = 0) -> tuple[Measured, ...]:
    """The metrics of these samples; what several of them read is read once.  Raises ConfigError without samples."""
    found: dict[Any, Any] = {}
    for metric in metrics:
        if not samples:
            raise ConfigError(f"{metric.name}: expected at least one sample, found none")
        if metric.read not in found:
            found[metric.read] = metric.read(samples)
    return tuple(_resampled(metric, metric.rows(found[metric.read]), seed) for metric in metrics)


def _resampled(metric: Metric, found: np.ndarray, seed: int) -> Measured:
    rows = np.asarray(found, np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    generator = np.random.default_rng(seed)
    values = [metric.total(rows[generator.integers(0, len(rows), len(rows))]) for _ in range(metric.resampled)]
    kept = [value for value in values if not np.isnan(value)]
    low, high = np.percentile(kept, [2.5, 97.5]) if kept else (float("nan"),) * 2
    return Measured(
        name=metric.name, value=metric.total(rows), low=float(low), high=float(high), n=len(rows), rows=rows
    )
