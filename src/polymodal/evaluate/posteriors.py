"""Class probabilities that a classifier gave of what was made: Inception score, divergence from the real thing.

A prediction is the probabilities of the classes, which are brought to a sum of 1.
    Inception score    exp(mean KL(p || mean of all p)) (Salimans et al. 2016, arXiv 1606.03498), of all rows at once;
                       papers split them into ten and take the mean
    KL                 a row has `posterior` of the real sound: mean KL(real || made), as audioldm_eval's with softmax
The Inception score falls with fewer rows, so that it has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, vector
from polymodal.fields import shown

LEAST = 1e-6  # is added to what was made, as audioldm_eval does


def probabilities(value: Any, what: str) -> np.ndarray:
    """float64 [classes] with the sum 1."""
    found = vector(value, what)
    if found.min() < 0 or not found.sum():
        raise ConfigError(f"{what}: expected probabilities, none below 0, found {shown(value)}; correct the row")
    return found / found.sum()


def posterior(record: Mapping[str, Any]) -> np.ndarray:
    """The probabilities of the real thing."""
    return probabilities(given(record, "posterior"), "posterior")


def read_said(samples: Sequence[Scored]) -> np.ndarray:
    """[N, classes] of the predictions."""
    return _table([probabilities(sample.prediction, "prediction") for sample in samples])


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    sizes = sorted({len(row) for row in rows})
    if len(sizes) > 1:
        raise ConfigError(f"prediction: expected as many classes in every row, found {sizes}")
    return np.array(rows)


def inception_score(rows: np.ndarray) -> float:
    """Of probabilities [N, classes]."""
    safe = np.where(rows > 0, rows, 1.0)
    mean = np.where(rows.mean(0) > 0, rows.mean(0), 1.0)
    return float(np.exp((rows * (np.log(safe) - np.log(mean))).sum(1).mean()))


def _divergences(samples: Sequence[Scored]) -> np.ndarray:
    real = _table([posterior(sample.record) for sample in samples])
    made = read_said(samples)
    if real.shape != made.shape:
        raise ConfigError(f"prediction: expected {real.shape[1]} classes as the rows have, found {made.shape[1]}")
    return (real * (np.log(np.where(real > 0, real, 1.0)) - np.log(made + LEAST))).sum(1)


INCEPTION_SCORE = Metric(name="Inception score", read=read_said, rows=np.asarray, total=inception_score, resampled=0)
KL = Metric(name="KL", rows=_divergences, best="low", asks=posterior)
