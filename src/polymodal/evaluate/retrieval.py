"""Retrieval: recall in the first 1, 5 and 10, median and mean rank, and RSUM, from similarities.

One way (video to text, sound to text).  A row has `relevant`, indices of the right items of the gallery; a prediction
is the similarities of the query with all items of the gallery, [G].
    mAP@10: mean over queries of the sum of the precisions at right items among the first ten, over min(10, right items)

Both ways (COCO and Flickr30k after Karpathy's split).  A row is a picture and has `captions`, a list; a
prediction is the similarities of the picture with the captions of all rows in their order, [T]; or, where they were
ranked before, {"picture_to_text": 3, "text_to_picture": [1, 7]}, from 1.
    picture to text: right where ANY of the picture's captions is in the first K
    text to picture: each caption is a query, with one right picture
    RSUM: the sum of the six recalls in percent, 0 to 600

Recalls are shares, 0 to 1.  Ranks count from 1, lower is better; MedR is the plain median (VSE++ rounds it down).
Wrong items that tie count against the query, right ones do not.  Resampling takes queries, or pictures with captions,
and keeps the gallery.  `fold` cuts rows of COCO's 5K test into its 1K folds, over which papers average.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.metrics import ranks
from polymodal.evaluate.values import given, listed
from polymodal.fields import shown

DEPTHS = (1, 5, 10)


def query_ranks(samples: Sequence[Scored]) -> np.ndarray:
    """Rank from 1 of the best relevant item of each sample's query, [N]."""
    similarity = _similarity([sample.prediction for sample in samples])
    relevant = [_relevant(sample, similarity.shape[1]) for sample in samples]
    return _from_one(similarity, relevant)


def average_precisions(samples: Sequence[Scored], depth: int = 10) -> np.ndarray:
    """Average precision of each query among its first items; wrong items that tie stand before right ones, [N]."""
    similarity = _similarity([sample.prediction for sample in samples]).numpy()
    rows = []
    for scores, sample in zip(similarity, samples, strict=True):
        items = _relevant(sample, len(scores))
        right = np.zeros(len(scores), bool)
        right[items] = True
        hits = right[np.lexsort((right, -scores))[:depth]]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        rows.append(precision[hits].sum() / min(depth, len(items)))
    return np.array(rows, np.float64)


def ranks_both_ways(similarity: torch.Tensor, captions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """similarity [I, T], how many of the T captions each picture has, in order -> ranks from 1, [I] and [T]."""
    if sum(captions) != similarity.shape[1]:
        raise ConfigError(
            f"prediction: expected similarities with all {sum(captions)} captions of the rows, "
            f"found {similarity.shape[1]}; compare each picture with the captions of every row, in the rows' order"
        )
    starts = np.cumsum([0, *captions])
    own = [range(a, b) for a, b in pairwise(starts)]
    pictures = [[i] for i, count in enumerate(captions) for _ in range(count)]
    return _from_one(similarity, own), _from_one(similarity.T, pictures)


def both_rows(samples: Sequence[Scored]) -> np.ndarray:
    """[I, 1 + most captions of a picture]: the picture's rank and those of its captions, nan where it has fewer."""
    counts = [caption_count(sample.record) for sample in samples]
    rows = np.full((len(counts), 1 + max(counts)), np.nan)
    if all(isinstance(sample.prediction, Mapping) for sample in samples):
        for row, count, sample in zip(rows, counts, samples, strict=True):
            row[0], row[1 : 1 + count] = _ranked(sample.prediction, count)
        return rows
    to_text, to_picture = ranks_both_ways(_similarity([sample.prediction for sample in samples]), counts)
    rows[:, 0] = to_text
    rows[:, 1:][np.arange(max(counts)) < np.array(counts)[:, None]] = to_picture
    return rows


def fold(samples: Sequence[Scored], which: int, folds: int = 5) -> list[Scored]:
    """The rows of one of `folds` equal parts, each compared with that part's captions alone."""
    if len(samples) % folds or not 0 <= which < folds:
        raise ConfigError(f"fold {which} of {folds}: expected rows that divide evenly, found {len(samples)}")
    size = len(samples) // folds
    chosen = samples[which * size : (which + 1) * size]
    start = sum(caption_count(sample.record) for sample in samples[: which * size])
    end = start + sum(caption_count(sample.record) for sample in chosen)
    return [Scored(record=sample.record, prediction=sample.prediction[start:end]) for sample in chosen]


def recall(found: np.ndarray, depth: int) -> float:
    """Share of ranks within `depth`; ranks that are nan are none."""
    known = found[~np.isnan(found)]
    return float((known <= depth).mean()) if len(known) else float("nan")


def rsum(rows: np.ndarray) -> float:
    """The sum of the six recalls of `both_rows`, in percent."""
    return 100 * sum(recall(part, depth) for part in (rows[:, :1], rows[:, 1:]) for depth in DEPTHS)


def _within(rows: np.ndarray, depth: int) -> np.ndarray:
    return (rows <= depth).astype(np.float64)


def _from_one(similarity: torch.Tensor, relevant: Sequence[Collection[int]]) -> np.ndarray:
    return np.array(ranks(similarity, relevant), np.float64) + 1


def right_items(record: Mapping[str, Any]) -> list[int]:
    """The indices of `relevant`, each once."""
    items = listed(given(record, "relevant"), "relevant", "indices from 0 of the gallery's items that are right")
    if not all(type(item) is int and item >= 0 for item in items):
        raise ConfigError(f"relevant: expected a list of indices from 0 on, found {shown(items)}; correct the row")
    return sorted(set(items))


def _relevant(sample: Scored, gallery: int) -> list[int]:
    items = right_items(sample.record)
    if items[-1] >= gallery:
        raise ConfigError(
            f"relevant: expected indices from 0 to {gallery - 1}, found {shown(items)}; the prediction has {gallery} "
            "similarities"
        )
    return items


def caption_count(record: Mapping[str, Any]) -> int:
    """How many captions a picture has."""
    return len(listed(given(record, "captions"), "captions", "captions"))


def _ranked(prediction: Mapping[str, Any], count: int) -> tuple[float, list[float]]:
    """The rank of a picture's best caption, and those of the picture for each of its captions."""
    try:
        to_text = float(prediction["picture_to_text"])
        to_picture = [float(rank) for rank in prediction["text_to_picture"]]
    except (KeyError, TypeError, ValueError):
        to_text, to_picture = 0.0, []
    if len(to_picture) != count or min(to_text, *to_picture) < 1:
        raise ConfigError(
            f"prediction: expected picture_to_text, a rank from 1, and text_to_picture, {count} of them, "
            f"found {shown(prediction)}"
        )
    return to_text, to_picture


def _similarity(predictions: Sequence[Sequence[float]]) -> torch.Tensor:
    """float64 [Q, G] of the predictions.  Raises ConfigError where lengths differ or a number is none."""
    try:
        table = torch.from_numpy(np.array([np.asarray(row, np.float64) for row in predictions]))
    except (TypeError, ValueError) as problem:
        lengths = sorted({len(row) if hasattr(row, "__len__") else 0 for row in predictions})
        raise ConfigError(
            f"prediction: expected as many similarities for each query as the gallery has items, found {lengths}"
        ) from problem
    if table.ndim != 2 or not table.isfinite().all():
        raise ConfigError("prediction: expected a list of finite similarities for each query, found something else")
    return table


def _own_score_first(found: np.ndarray, ranked: np.ndarray, sign: int) -> np.ndarray:
    return np.column_stack([sign * np.nanmean(ranked, axis=1), found])


def _way(name: str, part: slice) -> tuple[Metric, ...]:
    """R@1, 5, 10, MedR and MnR of some columns of `both_rows`; the first column is the picture's own score."""

    def rows(found: np.ndarray, sign: int) -> np.ndarray:
        return _own_score_first(found[:, part], found[:, part], sign)

    def high(depth: int) -> Metric:
        return _both(name=f"{name} R@{depth}", rows=partial(rows, sign=-1),
                     total=lambda found: recall(found[:, 1:], depth))  # fmt: skip

    def low(word: str, total: Callable[..., np.floating]) -> Metric:
        return _both(name=f"{name} {word}", rows=partial(rows, sign=1), best="low",
                     total=lambda found: float(total(found[:, 1:])))  # fmt: skip

    return (*map(high, DEPTHS), low("MedR", np.nanmedian), low("MnR", np.nanmean))


def _recall_at(depth: int) -> Metric:
    return _one_way(name=f"R@{depth}", rows=partial(_within, depth=depth))


_one_way = partial(Metric, read=query_ranks, asks=right_items)
_both = partial(Metric, read=both_rows, asks=caption_count)
RECALLS = tuple(map(_recall_at, DEPTHS))
MEDIAN_RANK = _one_way(name="MedR", rows=np.asarray, total=lambda rows: float(np.median(rows[:, 0])), best="low")
MEAN_RANK = _one_way(name="MnR", rows=np.asarray, best="low")
RETRIEVAL = (*RECALLS, MEDIAN_RANK, MEAN_RANK)
MAP_10 = Metric(name="mAP@10", rows=average_precisions, asks=right_items)
PICTURE_TO_TEXT = _way("picture to text", slice(0, 1))
TEXT_TO_PICTURE = _way("text to picture", slice(1, None))
RSUM = _both(name="RSUM", rows=lambda found: _own_score_first(found, found, -1), total=lambda rows: rsum(rows[:, 1:]))
BOTH_WAYS = (*PICTURE_TO_TEXT, *TEXT_TO_PICTURE, RSUM)
