"""Depth maps and pictures pixel by pixel, vertices of faces over time.

depth      a row has `depth`, rows of metres, 0 where nothing is known; a prediction is the same
           AbsRel |d - p| / d; RMSE, a mean over pictures; d1, d2, d3: the share with max(d / p, p / d) < 1.25^n
vertices   a row has `vertices` [T, V, 3] and `lips`, numbers of vertices, `upper` too; a prediction is vertices
           LVE: the largest squared distance of a lip's vertex, mean over frames (MeshTalk, arXiv 2104.08223)
           FDD: std over time of the upper face's motion, real minus made, mean over vertices (CodeTalker,
           arXiv 2301.02379), motion being the squared length of the offset from `template`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, listed
from polymodal.fields import shown

RATIO = 1.25


def numbers_of(value: Any, what: str, axes: int) -> np.ndarray:
    """float64 with so many axes.  Raises ConfigError for all else."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != axes or not found.size or not np.isfinite(found).all():
        raise ConfigError(f"{what}: expected numbers in lists {axes} deep, all as long, found {shown(value)}")
    return found


def depth(record: Mapping[str, Any]) -> np.ndarray:
    """Metres, 0 where nothing is known."""
    found = numbers_of(given(record, "depth"), "depth", 2)
    if not (found > 0).any():
        raise ConfigError("depth: expected a pixel above 0; leave the row out")
    return found


def read_depths(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 5]: AbsRel, RMSE, the three shares, of known pixels."""
    rows = []
    for sample in samples:
        marked, said = depth(sample.record), numbers_of(sample.prediction, "prediction", 2)
        if marked.shape != said.shape or said.min() <= 0:
            raise ConfigError(f"prediction: expected metres above 0 of {marked.shape} pixels, found {said.shape}")
        real, made = marked[marked > 0], said[marked > 0]
        ratio = np.maximum(real / made, made / real)
        shares = [(ratio < RATIO**power).mean() for power in (1, 2, 3)]
        rows.append([(np.abs(real - made) / real).mean(), np.sqrt(((real - made) ** 2).mean()), *shares])
    return np.array(rows, np.float64)


def face(record: Mapping[str, Any]) -> np.ndarray:
    """Vertices [T, V, 3]."""
    found = numbers_of(given(record, "vertices"), "vertices", 3)
    for name in ("lips", "upper"):
        chosen = listed(given(record, name), name, "numbers of vertices")
        if not all(type(index) is int and 0 <= index < found.shape[1] for index in chosen):
            raise ConfigError(f"{name}: expected numbers of vertices from 0 to {found.shape[1] - 1}")
    if numbers_of(given(record, "template"), "template", 2).shape != found.shape[1:]:
        raise ConfigError(f"template: expected {found.shape[1]} vertices of three numbers")
    return found


def _both(sample: Scored) -> tuple[np.ndarray, np.ndarray]:
    real, made = face(sample.record), numbers_of(sample.prediction, "prediction", 3)
    if real.shape != made.shape:
        raise ConfigError(f"prediction: expected vertices {list(real.shape)}, found {list(made.shape)}")
    return real, made


def lip_error(sample: Scored) -> float:
    """LVE of a sequence."""
    real, made = _both(sample)
    lips = list(sample.record["lips"])
    return float(((real - made)[:, lips] ** 2).sum(-1).max(1).mean())


def upper_dynamics(sample: Scored) -> float:
    """FDD of a sequence."""
    upper, template = list(sample.record["upper"]), np.asarray(sample.record["template"], np.float64)
    motion = [((each - template)[:, upper] ** 2).sum(-1).std(0) for each in _both(sample)]
    return float((motion[0] - motion[1]).mean())


def _each(score: Callable[[Scored], float]) -> Callable[[Sequence[Scored]], np.ndarray]:
    return lambda samples: np.array([score(sample) for sample in samples], np.float64)


def _column(found: np.ndarray, column: int) -> np.ndarray:
    chosen: np.ndarray = found[:, column]
    return chosen


_depths = partial(Metric, read=read_depths, asks=depth)
DEPTHS = (
    _depths(name="AbsRel", rows=partial(_column, column=0), best="low"),
    _depths(name="RMSE", rows=partial(_column, column=1), best="low"),
    *(_depths(name=f"d{power}", rows=partial(_column, column=1 + power)) for power in (1, 2, 3)),
)
FACES = (
    Metric(name="LVE", rows=_each(lip_error), best="low", asks=face),
    Metric(name="FDD", rows=_each(upper_dynamics), best="low", asks=face),
)
