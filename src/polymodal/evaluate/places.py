"""Where in a picture, when in a video: boxes and spans of time against the one that people marked.

Boxes (RefCOCO, RefCOCO+, RefCOCOg, Flickr30k Entities).  A row has `box`: [left, top, right, bottom] as shares of the
picture's width and height, 0 to 1; a prediction is such a box, or None where the model named none.
    IoU = area in both / area in either; accuracy@0.5 = share of rows with IoU >= 0.5 (as MAttNet and TransVG count)

Spans (Charades-STA, ActivityNet Captions, TACoS).  A row has `span`: [start, end] in seconds; a prediction is a list of
spans, best first, or an empty one.
    R@n, IoU=m = share of rows with one of the first n spans at IoU >= m (Gao et al. 2017, arXiv 1705.02101)
    mIoU = mean IoU of the first span

No prediction, and one whose end lies before its start, counts 0.  Shares have no pixels, so the "+ 1" that refer's own
code adds to widths of pixels has no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, numbers
from polymodal.fields import shown

# How far a marked box may lie outside the picture: marks were rounded to pixels.
EDGE = 0.01


def interval_iou(one: ArrayLike, other: ArrayLike) -> float:
    """IoU of [start, end] and [start, end], 0 to 1; 0 where one has no length."""
    return _extent_iou(np.asarray(one, np.float64).reshape(2, 1), np.asarray(other, np.float64).reshape(2, 1))


def box_iou(one: ArrayLike, other: ArrayLike) -> float:
    """IoU of two boxes [left, top, right, bottom], 0 to 1; 0 where one has no area."""
    return _extent_iou(np.asarray(one, np.float64).reshape(2, 2), np.asarray(other, np.float64).reshape(2, 2))


def marked_box(record: Mapping[str, Any]) -> np.ndarray:
    """The row's `box`, float64 [4].  Raises ConfigError unless it is a box with an area inside the picture."""
    box = numbers(given(record, "box"), "box", 4)
    if box.min() < -EDGE or box.max() > 1 + EDGE:
        raise ConfigError(
            f"box: expected shares of the picture from 0 to 1, found {box.tolist()}; "
            "divide left and right by the picture's width, top and bottom by its height"
        )
    if (box[2:] <= box[:2]).any():
        raise ConfigError(f"box: expected [left, top, right, bottom] with an area, found {box.tolist()}")
    return box


def marked_span(record: Mapping[str, Any]) -> np.ndarray:
    """The row's `span`, float64 [2].  Raises ConfigError unless its end comes after its start."""
    span = numbers(given(record, "span"), "span", 2)
    if span[1] <= span[0]:
        raise ConfigError(f"span: expected [start, end] in seconds with end after start, found {span.tolist()}")
    return span


def box_ious(samples: Sequence[Scored]) -> np.ndarray:
    """IoU of each sample's box, [N]."""
    return np.array([_box_iou_of(sample) for sample in samples], np.float64)


def span_ious(samples: Sequence[Scored], first: int = 1) -> np.ndarray:
    """The best IoU among the first spans of each prediction, [N]."""
    rows = []
    for sample in samples:
        span = marked_span(sample.record)
        rows.append(max((interval_iou(span, each) for each in _spans(sample.prediction)[:first]), default=0.0))
    return np.array(rows, np.float64)


@cache
def first_spans(first: int) -> Callable[[Sequence[Scored]], np.ndarray]:
    """`span_ious` of so many spans: one function for all metrics that look at as many."""
    return partial(span_ious, first=first)


def box_accuracy(threshold: float = 0.5) -> Metric:
    """Share of boxes with IoU >= threshold."""
    return _box(name=f"accuracy@{threshold:g}", rows=partial(_reached, threshold=threshold))


def span_recall(first: int, threshold: float) -> Metric:
    """R@first, IoU=threshold."""
    return _span(
        name=f"R@{first}, IoU={threshold:g}", read=first_spans(first), rows=partial(_reached, threshold=threshold)
    )


def _extent_iou(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two extents [2 ends, axes]."""
    sizes = [float(np.prod(np.maximum(extent[1] - extent[0], 0))) for extent in (one, other)]
    both = float(np.prod(np.maximum(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0)))
    return both / (sum(sizes) - both) if all(sizes) else 0.0


def _reached(ious: np.ndarray, threshold: float) -> np.ndarray:
    return (ious >= threshold).astype(np.float64)


def _box_iou_of(sample: Scored) -> float:
    box = marked_box(sample.record)
    return 0.0 if sample.prediction is None else box_iou(box, numbers(sample.prediction, "prediction", 4))


def _spans(prediction: Any) -> list[np.ndarray]:
    if not isinstance(prediction, list | tuple):
        raise ConfigError(f"prediction: expected a list of [start, end], best first, found {shown(prediction)}")
    return [numbers(span, "prediction", 2) for span in prediction]


_box = partial(Metric, read=box_ious, asks=marked_box)
_span = partial(Metric, asks=marked_span)
GROUNDING_ACCURACY = box_accuracy(0.5)
MEAN_IOU = _box(name="mean IoU", rows=np.asarray)
SPAN_RECALLS = tuple(span_recall(1, threshold) for threshold in (0.3, 0.5, 0.7))
SPAN_MEAN_IOU = _span(name="mIoU", read=first_spans(1), rows=np.asarray)
GROUNDING = (GROUNDING_ACCURACY, MEAN_IOU)
MOMENTS = (*SPAN_RECALLS, SPAN_MEAN_IOU)
