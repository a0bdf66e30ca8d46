"""Moments and highlights of a video by a query, as QVHighlights scores them (Moment-DETR, arXiv 2107.09609).

Moments.  A row has `spans`, all [start, end] in seconds that are right; a prediction is a list of [start, end, score],
of which the first ten count.
    mAP@m     a span is a hit where its IoU with a marked one that none before it took is m or more; average precision
              by interpolation at every recall (VOC 2011); mAP: the mean over m = 0.5, 0.55, ... 0.95
    R1@m      the first span's best IoU is m or more
Highlights.  A row has `duration` in seconds, `relevant_clip_ids` (clips of 2 s) and for each `saliency_scores`, 0 to 4
by three people; other clips have 0.  A prediction is a score for each clip.
    mAP       of each person's clips at or above a level, mean over the three
    HIT@1     the likeliest clip is at or above the level for one of them
    levels    fair 2, good 3, very good 4: papers print the last

Traps: the official script leaves out queries without any predicted span; here they count 0.  Its precision starts again
from 1 at no recall, and equal scores are one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.places import interval_iou
from polymodal.evaluate.values import given, listed, number, numbers, vector
from polymodal.fields import shown

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
FIRST = 10
CLIP = 2.0  # seconds
PEOPLE = 3
LEVELS = {"fair": 2, "good": 3, "very good": 4}


def marked_spans(record: Mapping[str, Any]) -> list[np.ndarray]:
    """All right spans, each with a length."""
    spans = [numbers(span, "spans", 2) for span in listed(given(record, "spans"), "spans", "[start, end] in seconds")]
    wrong = [span.tolist() for span in spans if span[1] <= span[0]]
    if wrong:
        raise ConfigError(f"spans: expected [start, end] in seconds with end after start, found {wrong[0]}")
    return spans


def span_precisions(spans: Sequence[np.ndarray], said: Sequence[np.ndarray]) -> list[float]:
    """Average precision at each of `THRESHOLDS`, of predictions [start, end, score] in any order."""
    ranked = sorted(said, key=lambda each: -each[2])
    ious = np.array([[interval_iou(span, each[:2]) for span in spans] for each in ranked]).reshape(-1, len(spans))
    return [_matched(ious, threshold) for threshold in THRESHOLDS]


def _matched(ious: np.ndarray, threshold: float) -> float:
    taken: set[int] = set()
    hits = []
    for row in ious:
        free = [int(i) for i in np.argsort(row)[::-1] if row[i] >= threshold and int(i) not in taken]
        taken.update(free[:1])
        hits.append(bool(free))
    if not any(hits):
        return 0.0
    right = np.cumsum(hits)
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(precision[np.array(hits)].sum() / ious.shape[1])


def read_moments(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 11]: average precision at each threshold, best IoU of the first span."""
    rows = []
    for sample in samples:
        spans, said = marked_spans(sample.record), _said(sample.prediction)
        first = max((interval_iou(span, said[0][:2]) for span in spans), default=0.0) if said else 0.0
        rows.append([*span_precisions(spans, said), first])
    return np.array(rows, np.float64)


def _said(prediction: Any) -> list[np.ndarray]:
    if not isinstance(prediction, list | tuple):
        raise ConfigError(f"prediction: expected a list of [start, end, score], found {shown(prediction)}")
    return [numbers(each, "prediction", 3) for each in prediction[:FIRST]]


def saliency(record: Mapping[str, Any]) -> np.ndarray:
    """What each person gave each clip, [clips, 3]."""
    ids, scores = given(record, "relevant_clip_ids"), given(record, "saliency_scores")
    table = np.zeros((int(number(given(record, "duration"), "duration") / CLIP), PEOPLE))
    if not isinstance(ids, list | tuple) or not all(type(each) is int and 0 <= each < len(table) for each in ids):
        raise ConfigError(
            f"relevant_clip_ids: expected numbers of clips from 0 to {len(table) - 1}, found {shown(ids)}"
        )
    if not isinstance(scores, list | tuple) or len(scores) != len(ids):
        raise ConfigError(f"saliency_scores: expected {len(ids)} lists of {PEOPLE} numbers, found {shown(scores)}")
    for clip, each in zip(ids, scores, strict=True):
        table[clip] = numbers(each, "saliency_scores", PEOPLE)
    return table


def clip_precision(right: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of clips; 0 where none is right, 1 where all are."""
    if right.all() or not right.any():
        return float(right.any())
    levels = np.unique(scores)
    found = np.array([((scores >= level) & right).sum() for level in levels], np.float64)
    written = np.array([(scores >= level).sum() for level in levels])
    precision = np.maximum.accumulate(found / written)
    gained = found > np.append(found[1:], 0)
    return float(precision[gained].mean())


def read_highlights(samples: Sequence[Scored]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(saliency [clips, 3], scores [clips]) of each; a score that is lacking is 0, one too many is left out."""
    found = []
    for sample in samples:
        table, said = saliency(sample.record), vector(sample.prediction, "prediction")
        found.append((table, said))
    return found


def _precisions(found: Sequence[tuple[np.ndarray, np.ndarray]], level: int) -> np.ndarray:
    rows = []
    for table, said in found:
        scores = np.pad(said[: len(table)], (0, max(0, len(table) - len(said))))
        rows.append([clip_precision(right, scores) for right in (table >= level).T])
    return np.array(rows).mean(1)


def _hits(found: Sequence[tuple[np.ndarray, np.ndarray]], level: int) -> np.ndarray:
    best = [(table, int(said.argmax())) for table, said in found]
    return np.array([at < len(table) and bool((table[at] >= level).any()) for table, at in best], np.float64)


def _column(found: np.ndarray, threshold: float) -> np.ndarray:
    column: np.ndarray = found[:, THRESHOLDS.index(threshold)]
    return column


_moments = partial(Metric, read=read_moments, asks=marked_spans)
_highlights = partial(Metric, read=read_highlights, asks=saliency)
MOMENT_RANKING = (
    _moments(name="mAP", rows=lambda found: found[:, :-1].mean(1)),
    *(_moments(name=f"mAP@{each:g}", rows=partial(_column, threshold=each)) for each in (0.5, 0.75)),
    _moments(name="R1@0.5", rows=lambda found: (found[:, -1] >= 0.5).astype(np.float64)),
    _moments(name="R1@0.7", rows=lambda found: (found[:, -1] >= 0.7).astype(np.float64)),
)
HIGHLIGHTS = tuple(
    _highlights(name=f"{name} ({word})", rows=partial(rows, level=level))
    for word, level in reversed(LEVELS.items())
    for name, rows in (("mAP", _precisions), ("HIT@1", _hits))
)
