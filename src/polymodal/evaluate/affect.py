"""Sentiment and emotion as numbers: CMU-MOSI and CMU-MOSEI (-3 to 3), CH-SIMS (-1 to 1), valence and arousal.

A row has `label`, a number; a prediction is a number.  What each metric counts is what MMSA's metricsTop.py counts
(M-SENA, arXiv 2203.12441), which reads numbers as float32 and rounds halves to even:

    MOSI, MOSEI   MAE; Corr (Pearson); Acc-7, Acc-5: rounded after clipping to [-3, 3], [-2, 2]
                  Acc-2, weighted F1: negative/non-negative (>= 0, all rows), negative/positive (> 0, no zero labels)
    SIMS          the same after clipping to [-1, 1]; Acc-2, Acc-3, Acc-5 by intervals open to the left and
                  closed to the right, with edges 0; -0.1, 0.1; -0.7, -0.1, 0.1, 0.7; weighted F1 of Acc-2
    CCC           2 cov / (var + var + (difference of means)^2), all with 1/N (Lin 1989), from -1 to 1
    weighted accuracy of an emotion (MOSEI, Zadeh et al. 2018): mean of the recalls of "present" and "absent"; a row
                  has `label`, {"happy": 0.67, ...}, present above 0, and a prediction is the same

Older code (MulT) takes > 0 for both binary metrics.  MMSA rounds what it reports to four digits; this does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.classes import averaged
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, number
from polymodal.fields import shown

SIMS_EDGES = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}
EMOTIONS = ("happy", "sad", "angry", "surprise", "disgust", "fear")
Decision = Callable[[np.ndarray], np.ndarray]


def marked(record: Mapping[str, Any]) -> float:
    """The number that people gave."""
    return number(given(record, "label"), "label")


def intensities_of(record: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the label is emotions with their intensities."""
    for emotion in EMOTIONS:
        _present(given(record, "label"), emotion, "label")


def pairs(samples: Sequence[Scored], limit: float | None = None) -> np.ndarray:
    """float32 [N, 2]: label and prediction, clipped to [-limit, limit] where one is given."""
    read = [(marked(each.record), number(each.prediction, "prediction")) for each in samples]
    values = np.array(read, np.float32).reshape(-1, 2)
    return values if limit is None else np.clip(values, -limit, limit)


def error_rows(samples: Sequence[Scored], limit: float | None = None) -> np.ndarray:
    """|prediction - label|, [N]."""
    values = pairs(samples, limit)
    return np.abs(values[:, 1] - values[:, 0]).astype(np.float64)


def square_rows(samples: Sequence[Scored]) -> np.ndarray:
    """(prediction - label)^2, [N]."""
    return error_rows(samples) ** 2


def number_rows(samples: Sequence[Scored], limit: float | None = None) -> np.ndarray:
    """[N, 3]: minus the error, label, prediction."""
    values = pairs(samples, limit).astype(np.float64)
    return np.column_stack([-np.abs(values[:, 1] - values[:, 0]), values])


def correlation(rows: np.ndarray) -> float:
    """Pearson's of the last two columns; nan where one of them is constant."""
    if not len(rows) or not np.ptp(rows[:, 1:], axis=0).all():
        return float("nan")
    x, y = (rows[:, 1:] - rows[:, 1:].mean(0)).T
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def concordance(rows: np.ndarray) -> float:
    """Lin's concordance correlation of the last two columns; nan where both are the same constant."""
    if not len(rows) or not np.ptp(rows[:, 1:]):
        return float("nan")
    (x, y), means = (rows[:, 1:] - rows[:, 1:].mean(0)).T, rows[:, 1:].mean(0)
    return float(2 * (x @ y) / (x @ x + y @ y + len(rows) * (means[0] - means[1]) ** 2))


def decided(samples: Sequence[Scored], decide: Decision, limit: float | None = None, zeros: bool = True) -> np.ndarray:
    """[N, 4]: right or not, class of label and prediction, 1 where the row counts (0: a label of 0 left out)."""
    values = pairs(samples, limit)
    classes = decide(values)
    counts = np.ones(len(values)) if zeros else (values[:, 0] != 0)
    return np.column_stack([classes[:, 0] == classes[:, 1], classes, counts]).astype(np.float64)


def rounded(values: np.ndarray, limit: int) -> np.ndarray:
    """Classes 0 to 2 * limit: clipped and rounded, halves to even."""
    return np.round(np.clip(values, -limit, limit)) + limit


def interval(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """The number of edges below each value: intervals are open to the left and closed to the right."""
    return np.searchsorted(np.array(edges, np.float32), values, side="left")


def share_right(rows: np.ndarray) -> float:
    """The share of counted rows that are right; nan of none."""
    kept = rows[rows[:, 3] > 0]
    return float(kept[:, 0].mean()) if len(kept) else float("nan")


def weighted_f1(rows: np.ndarray) -> float:
    """F1 of the classes of counted rows, weighted by how often each is the label; nan of none."""
    return averaged(2, weighted=True)(rows[rows[:, 3] > 0, :3])


def weighted_accuracy(rows: np.ndarray) -> float:
    """Mean recall of rows [right, present, predicted]; nan where all or none are present."""
    present = rows[:, 1] > 0
    if present.all() or not present.any():
        return float("nan")
    return float((rows[present, 0].mean() + rows[~present, 0].mean()) / 2)


def emotion_rows(samples: Sequence[Scored], emotion: str) -> np.ndarray:
    """[N, 3]: right or not, present, predicted."""
    rows = [(_present(given(each.record, "label"), emotion, "label"), _present(each.prediction, emotion, "prediction"))
            for each in samples]  # fmt: skip
    return np.array([(label == said, label, said) for label, said in rows], np.float64).reshape(-1, 3)


def _present(intensities: object, emotion: str, what: str) -> bool:
    if not isinstance(intensities, Mapping):
        raise ConfigError(f'{what}: expected intensities by emotion, {{"{emotion}": 0.5}}, found {shown(intensities)}')
    return number(intensities.get(emotion, 0), f"{what}, {emotion}") > 0


def _binary(name: str, decide: Decision, limit: float | None = None, zeros: bool = True) -> tuple[Metric, Metric]:
    rows = partial(decided, decide=decide, limit=limit, zeros=zeros)
    return (
        _metric(name=f"Acc-2{name}", read=rows, rows=np.asarray, total=share_right),
        _metric(name=f"F1{name}", read=rows, rows=np.asarray, total=weighted_f1),
    )


def _accuracy(classes: int, decide: Decision, limit: float | None = None) -> Metric:
    return _metric(name=f"Acc-{classes}", rows=partial(decided, decide=decide, limit=limit), total=share_right)


def _within(classes: int) -> Decision:
    return partial(interval, edges=SIMS_EDGES[classes])


_metric = partial(Metric, asks=marked)
MAE = _metric(name="MAE", rows=error_rows, best="low")
RMSE = _metric(name="RMSE", rows=square_rows, total=lambda rows: float(np.sqrt(rows[:, 0].mean())), best="low")
CORR = _metric(name="Corr", rows=number_rows, total=correlation)
CCC = _metric(name="CCC", rows=number_rows, total=concordance)
MOSI = (
    MAE,
    CORR,
    _accuracy(7, partial(rounded, limit=3)),
    _accuracy(5, partial(rounded, limit=2)),
    *_binary(" (negative/non-negative)", lambda values: values >= 0),
    *_binary(" (negative/positive)", lambda values: values > 0, zeros=False),
)
MOSEI = MOSI
SIMS = (
    _metric(name="MAE", rows=partial(error_rows, limit=1), best="low"),
    _metric(name="Corr", rows=partial(number_rows, limit=1), total=correlation),
    *_binary("", _within(2), limit=1),
    _accuracy(3, _within(3), limit=1),
    _accuracy(5, _within(5), limit=1),
)
MOSEI_EMOTIONS = tuple(
    Metric(
        name=f"weighted accuracy, {emotion}",
        rows=partial(emotion_rows, emotion=emotion),
        total=weighted_accuracy,
        asks=intensities_of,
    )
    for emotion in EMOTIONS
)
