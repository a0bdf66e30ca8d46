"""Tracking one object through a video (LaSOT, TNL2K, OTB99-Lang): success, precision, normalised precision.

A row is a video and has `boxes`, of each frame [left, top, right, bottom] in pixels, None where the object is unseen;
a prediction is the same, None where the tracker found nothing.
    success AUC            share of frames with IoU > t, mean over t = 0, 0.05, .. 1 (21; Wu et al. 2013); at most 20/21
    precision              share of frames whose centres lie within 20 pixels
    normalised precision   the same with distances divided by the marked width and height, within 0.2
Each is a mean over the video's frames, then over videos.  As pysot-toolkit counts, frames without the object are never
hits but stay in the number of frames.  It also skips boxes that touch the left or upper edge (left or top 0 or less);
here they count as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.places import box_iou
from polymodal.evaluate.values import given, listed, numbers
from polymodal.fields import shown

OVERLAPS = np.arange(21) * 0.05
PIXELS, NORMALISED = 20.0, 0.2
Pair = tuple[np.ndarray, np.ndarray]


def success(pairs: Sequence[Pair], count: int) -> float:
    """Success AUC of a video of `count` frames, from the (marked, predicted) boxes of those with both."""
    ious = np.array([box_iou(marked, said) for marked, said in pairs])
    return float((ious[:, None] > OVERLAPS).sum(0).mean() / count) if len(pairs) else 0.0


def precision(pairs: Sequence[Pair], count: int, limit: float, normalised: bool) -> float:
    """Share of `count` frames whose centres are no farther apart than `limit`."""
    hits = 0
    for marked, said in pairs:
        away = (said[:2] + said[2:] - marked[:2] - marked[2:]) / 2
        hits += np.hypot(*(away / (marked[2:] - marked[:2]) if normalised else away)) <= limit
    return float(hits / count)


def frame_pairs(sample: Scored) -> tuple[list[Pair], int]:
    """(marked, predicted) boxes of the frames that have both, and how many frames there are."""
    marked, said = marked_boxes(sample.record), sample.prediction
    if not isinstance(said, list | tuple) or len(said) != len(marked):
        raise ConfigError(f"prediction: expected a list of {len(marked)} boxes as the row has, found {shown(said)}")
    found = [None if box is None else numbers(box, "prediction", 4) for box in said]
    return [(a, b) for a, b in zip(marked, found, strict=True) if a is not None and b is not None], len(marked)


def marked_boxes(record: Mapping[str, Any]) -> list[np.ndarray | None]:
    """The box of each frame, None where the object is unseen."""
    boxes = listed(given(record, "boxes"), "boxes", "a box or None for each frame")
    return [None if box is None else _with_area(numbers(box, "boxes", 4)) for box in boxes]


def read_tracks(samples: Sequence[Scored]) -> list[tuple[list[Pair], int]]:
    """`frame_pairs` of each sample."""
    return [frame_pairs(sample) for sample in samples]


def _with_area(box: np.ndarray) -> np.ndarray:
    if (box[2:] <= box[:2]).any():
        raise ConfigError(f"boxes: expected [left, top, right, bottom] in pixels with an area, found {box.tolist()}")
    return box


def _rows(found: Sequence[tuple[list[Pair], int]], score: Callable[[Sequence[Pair], int], float]) -> np.ndarray:
    return np.array([score(*each) for each in found], np.float64)


_metric = partial(Metric, read=read_tracks, asks=marked_boxes)
SUCCESS_AUC = _metric(name="success AUC", rows=partial(_rows, score=success))
PRECISION_20 = _metric(
    name="precision at 20 pixels", rows=partial(_rows, score=partial(precision, limit=PIXELS, normalised=False))
)
NORMALISED_PRECISION = _metric(
    name="normalised precision", rows=partial(_rows, score=partial(precision, limit=NORMALISED, normalised=True))
)
TRACKING = (SUCCESS_AUC, PRECISION_20, NORMALISED_PRECISION)
