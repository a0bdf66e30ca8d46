"""Vectors that encoders gave: speakers, edits of pictures and videos, two models side by side.

similarity          a row has `features`, a prediction too: mean cosine (a speaker, a picture before and after)
direction           a row has `before`, `text_before` and `text_after`, a prediction is the vector of the picture
                    afterwards: the cosine of the difference of pictures and that of texts (StyleGAN-NADA,
                    arXiv 2108.00946, as InstructPix2Pix measures edits)
frame consistency   a prediction is the vectors of a video's frames: mean cosine of neighbours
mutual k-NN         a row has `features` of one model, a prediction those of another of the same thing: the mean share
                    of the k = 10 nearest others that both have in common (arXiv 2405.07987)
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.frechet import feature_rows, real_features
from polymodal.evaluate.metric import Metric, Scored, each
from polymodal.evaluate.values import given, listed, vector

NEIGHBOURS = 10


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The cosine of two vectors; 0 where one has no length."""
    if one.shape != other.shape:
        raise ConfigError(f"prediction: expected {len(one)} numbers as the row has, found {len(other)}")
    length = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / length) if length else 0.0


def _similar(sample: Scored) -> float:
    return cosine(real_features(sample.record), vector(sample.prediction, "prediction"))


def direction(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The vector of the picture before, and the difference of the texts."""
    before, text, other = (vector(given(record, name), name) for name in ("before", "text_before", "text_after"))
    if not len(before) == len(text) == len(other):
        raise ConfigError("before, text_before and text_after: expected as many numbers in each")
    return before, other - text


def _directed(sample: Scored) -> float:
    before, texts = direction(sample.record)
    after = vector(sample.prediction, "prediction")
    if len(after) != len(before):
        raise ConfigError(f"prediction: expected {len(before)} numbers as the row has, found {len(after)}")
    return cosine(texts, after - before)


def _consistent(sample: Scored) -> float:
    frames = [vector(frame, "prediction") for frame in listed(sample.prediction, "prediction", "vectors of frames")]
    if len(frames) < 2:
        raise ConfigError("prediction: expected the vectors of two frames or more, found one")
    return float(np.mean([cosine(one, other) for one, other in pairwise(frames)]))


def neighbours(vectors: np.ndarray, k: int) -> np.ndarray:
    """The k nearest others by cosine, [N, k]; of equal ones the earlier row."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, :k]


def mutual_neighbours(rows: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Of rows of `feature_rows`: the share of neighbours in common, [N]."""
    if len(rows) <= k:
        raise ConfigError(f"mutual k-NN: expected more than {k} rows, found {len(rows)}")
    sides = [neighbours(side, k) for side in np.split(rows[:, 1:], 2, axis=1)]
    return np.array([len(set(a) & set(b)) / k for a, b in zip(*(side.tolist() for side in sides), strict=True)])


SIMILARITY = Metric(name="similarity", rows=each(_similar), asks=real_features)
DIRECTION = Metric(name="direction similarity", rows=each(_directed), asks=direction)
CONSISTENCY = Metric(name="frame consistency", rows=each(_consistent))
MUTUAL_KNN = Metric(name=f"mutual k-NN, k={NEIGHBOURS}", read=feature_rows, rows=mutual_neighbours, asks=real_features)
