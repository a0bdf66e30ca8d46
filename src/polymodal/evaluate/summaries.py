"""Summaries of videos: which frames or shots were chosen, against those that people chose.

    frames   a row has `summaries`, of each person 0 or 1 for every frame; a prediction is the same once
             F: of a person 2 P R / (P + R); the mean over people (TVSum) and the best (SumMe)
    shots    a row has `concepts`, of each shot the words of what it shows, and `selected`, the shots that people
             chose; a prediction is numbers of shots
             F1: shots are paired so that the sum of the overlaps (shared words / all words) is the largest; P and R are
             that sum over the shots that were predicted, and that were marked (QFVS, arXiv 1707.04960)

Choosing segments within 15 % of a video's length is the model's part: the prediction is what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored, each
from polymodal.evaluate.values import given, listed, texts
from polymodal.fields import shown


def _chosen(value: Any, what: str) -> np.ndarray:
    frames = listed(value, what, "0 or 1 for each frame")
    if not all(frame in (0, 1) for frame in frames):
        raise ConfigError(f"{what}: expected 0 or 1 for each frame, found {shown(value)}; correct the row")
    return np.array(frames, bool)


def summaries(record: Mapping[str, Any]) -> list[np.ndarray]:
    """What each person chose."""
    return [_chosen(one, "summaries") for one in listed(given(record, "summaries"), "summaries", "summaries")]


def read_overlaps(samples: Sequence[Scored]) -> list[list[float]]:
    """F with each person's summary, of each sample."""
    found = []
    for sample in samples:
        people, said = summaries(sample.record), _chosen(sample.prediction, "prediction")
        if {len(one) for one in people} != {len(said)}:
            raise ConfigError(f"prediction: expected as many frames as each summary has, found {len(said)}")
        found.append([_f((one & said).sum(), said.sum(), one.sum()) for one in people])
    return found


def _f(common: float, said: float, marked: float) -> float:
    return float(2 * common / (said + marked)) if said + marked else 0.0


def shots(record: Mapping[str, Any]) -> tuple[list[set[str]], list[int]]:
    """The words of each shot, the shots that people chose."""
    rows = listed(given(record, "concepts"), "concepts", "words of each shot")
    concepts = [set(texts(row, "concepts")) if row else set() for row in rows]
    return concepts, _shots(given(record, "selected"), "selected", len(concepts))


def _shots(value: Any, what: str, count: int) -> list[int]:
    chosen = value if isinstance(value, list | tuple) else None
    if chosen is None or not all(type(shot) is int and 0 <= shot < count for shot in chosen):
        raise ConfigError(f"{what}: expected numbers of shots from 0 to {count - 1}, found {shown(value)}")
    return sorted(set(chosen))


def shot_f1(sample: Scored) -> float:
    """F1 of a sample by the best pairing."""
    concepts, marked = shots(sample.record)
    said = _shots(sample.prediction, "prediction", len(concepts))
    overlaps = np.array([[_overlap(concepts[a], concepts[b]) for b in marked] for a in said]).reshape(-1, len(marked))
    return _f(best_pairing(overlaps), len(said), len(marked))


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def best_pairing(weights: np.ndarray) -> float:
    """The largest sum of weights [N, M], none below 0, with each row and column once at most (Hungarian method)."""
    if not weights.size:
        return 0.0
    cost = -(weights if weights.shape[0] <= weights.shape[1] else weights.T)
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    taken = np.zeros(columns + 1, int)  # which row a column has, from 1; column 0 is where a row begins
    for row in range(1, rows + 1):
        taken[0], here = row, 0
        least, before = np.full(columns + 1, np.inf), np.zeros(columns + 1, int)
        seen = np.zeros(columns + 1, bool)
        while taken[here]:
            seen[here] = True
            free = np.flatnonzero(~seen[1:]) + 1
            slack = cost[taken[here] - 1, free - 1] - row_price[taken[here]] - column_price[free]
            nearer = slack < least[free]
            least[free[nearer]], before[free[nearer]] = slack[nearer], here
            next_column = int(free[np.argmin(least[free])])
            step = least[next_column]
            row_price[taken[seen]] += step
            column_price[seen] -= step
            least[~seen] -= step
            here = next_column
        while here:
            taken[here] = taken[before[here]]
            here = int(before[here])
    return float(sum(-cost[taken[column] - 1, column - 1] for column in range(1, columns + 1) if taken[column]))


_frames = partial(Metric, read=read_overlaps, asks=summaries)
FRAMES = (
    _frames(name="F, mean over people", rows=lambda found: np.array([np.mean(row) for row in found])),
    _frames(name="F, best of people", rows=lambda found: np.array([max(row) for row in found])),
)
SHOT_F1 = Metric(name="F1", rows=each(shot_f1), asks=shots)
