"""Masks: J, F and J&F of video objects (DAVIS), Dice, IoU of referred objects, mean IoU of classes.

A row has `mask`, or `masks` of all frames of one object; a prediction is the same, None for no object.  A mask is
a list of rows of 0 and 1, or COCO's run lengths {"size": [height, width], "counts": "..." or [..]}, columns first.
    J      IoU, 1 where both are empty
    F      F1 of boundary pixels within ceil(0.008 * diagonal) of the other's boundary (Perazzi et al. 2016)
    J&F    their mean; all three are means over frames, then over objects, as davis2017-evaluation gives them.  DAVIS
           leaves out the first and last frame: so do the rows, if their numbers are to be compared
    Dice   2 |A and B| / (|A| + |B|), 1 where both are empty
    HD95   the 95th percentile, in pixels, of the distances of each mask's edge to the other's, the larger of the two
           ways, as monai has it; 0 where both are empty, the picture's diagonal where one is
    overall IoU, P@K (A2D-Sentences): sum of intersections over sum of unions; share of objects with IoU > K

Classes (NYU-D, SUN RGB-D).  A row has `classes`, a list of rows of numbers of classes, 255 where nothing is known; a
prediction is the same.  mIoU: of all pixels of the data, the mean over classes that occur of IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored, quotient
from polymodal.evaluate.values import given, listed
from polymodal.fields import shown

TOLERANCE = 0.008
UNKNOWN = 255
MOST_PIXELS = 100_000_000
Score = Callable[[np.ndarray, np.ndarray], float]
Found = Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]


def run_lengths(counts: str) -> list[int]:
    """COCO's text of run lengths: 5 bits a character above "0", the sixth says that more follow; signed differences.

    From the fourth number on, what is written is the difference from the last but one.
    """
    numbers: list[int] = []
    value, shift = 0, 0
    for letter in counts:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ConfigError(f"mask: expected COCO's run lengths as text, found the character {letter!r} in counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ConfigError("mask: expected COCO's run lengths as text, found counts that end within a number")
    return numbers


def read_mask(value: Any, what: str) -> np.ndarray:
    """bool [height, width] of rows of 0 and 1, or of COCO's run lengths.  Raises ConfigError for all else."""
    if isinstance(value, Mapping):
        return _from_runs(value, what)
    mask = _table(value, what)
    if not np.isin(mask, (0, 1)).all():
        raise ConfigError(f"{what}: expected 0 and 1, found numbers up to {mask.max()}; write one mask for each object")
    return mask.astype(bool)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour; bool [height, width]."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != wide[:-1, 1:]) | (mask != wide[1:, :-1]) | (mask != wide[1:, 1:])


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels within `radius` of one that is set: dilation by a disk."""
    height, width = mask.shape
    sums = np.pad(np.cumsum(mask, 1), ((radius, radius), (radius + 1, radius)), mode="constant")
    sums[:, radius + 1 + width :] = sums[:, radius + width : radius + 1 + width]
    found = np.zeros(mask.shape, bool)
    for down in range(-radius, radius + 1):
        half = int(np.sqrt(radius**2 - down**2))
        rows = sums[radius + down : radius + down + height]
        found |= rows[:, radius + half + 1 :][:, :width] > rows[:, radius - half :][:, :width]
    return found


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """J of two masks."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def boundary_f(one: np.ndarray, other: np.ndarray) -> float:
    """F of two masks."""
    radius = int(np.ceil(TOLERANCE * np.hypot(*one.shape)))
    edges = boundary(one), boundary(other)
    sizes = [edge.sum() for edge in edges]
    if not all(sizes):
        return float(not any(sizes))
    shares = [(edge & near(against, radius)).sum() / edge.sum() for edge, against in (edges, edges[::-1])]
    return float(2 * shares[0] * shares[1] / sum(shares)) if any(shares) else 0.0


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice's coefficient of two masks."""
    size = one.sum() + other.sum()
    return float(2 * (one & other).sum() / size) if size else 1.0


def edge(mask: np.ndarray) -> np.ndarray:
    """Where the pixels are that have one beside, above or below them that is not set, or the picture's end: [N, 2]."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return np.argwhere(mask & ~inner)


def hausdorff(one: np.ndarray, other: np.ndarray, share: float = 95.0) -> float:
    """HD95 of two masks."""
    edges = edge(one), edge(other)
    if not all(map(len, edges)):
        return float(np.hypot(*one.shape)) if any(map(len, edges)) else 0.0
    return max(float(np.percentile(_nearest(*way), share)) for way in (edges, edges[::-1]))


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance of each point to the nearest of the others, [N]."""
    pieces = np.array_split(points, max(1, len(points) * len(others) // 1_000_000))
    return np.concatenate([np.sqrt(((each[:, None] - others) ** 2).sum(-1).min(1)) for each in pieces])


def frames(sample: Scored) -> list[tuple[np.ndarray, np.ndarray]]:
    """(marked, predicted) of each frame; of a single picture, of one."""
    marked, said = marked_masks(sample.record), sample.prediction
    field = "masks" if "masks" in sample.record else "mask"
    said = [said] if field == "mask" else said
    said = [None] * len(marked) if said is None else said
    if not isinstance(said, list | tuple) or len(said) != len(marked):
        raise ConfigError(f"prediction: expected a list of {len(marked)} masks as the row has, found {shown(said)}")
    return [_pair(one, other) for one, other in zip(marked, said, strict=True)]


def marked_masks(record: Mapping[str, Any]) -> list[np.ndarray]:
    """The mask of each frame; of a single picture, of one."""
    if "masks" not in record:
        return [read_mask(given(record, "mask"), "mask")]
    return [read_mask(each, "masks") for each in listed(given(record, "masks"), "masks", "a mask for each frame")]


def read_frames(samples: Sequence[Scored]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """`frames` of each sample."""
    return [frames(sample) for sample in samples]


def region_and_boundary(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 2]: J and F of each sample, means over its frames."""
    pairs = [[(jaccard(*pair), boundary_f(*pair)) for pair in frames(sample)] for sample in samples]
    return np.array([np.mean(each, axis=0) for each in pairs], np.float64).reshape(-1, 2)


def over_frames(score: Score) -> Callable[[Found], np.ndarray]:
    """Rows of `read_frames`: the mean of a score over each sample's frames, [N]."""
    return lambda found: np.array([np.mean([score(*pair) for pair in each]) for each in found], np.float64)


def pixel_rows(found: Found) -> np.ndarray:
    """[N, 2]: pixels in both and in either."""
    counts = [(sum((a & b).sum() for a, b in each), sum((a | b).sum() for a, b in each)) for each in found]
    return np.array(counts, np.float64).reshape(-1, 2)


def class_pixels(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 1 + 2C]: the share of pixels that are right; for each class the pixels in both, then those in either."""
    tables = [(class_table(each.record), _table(each.prediction, "prediction")) for each in samples]
    most = 1 + max(int(table[table != UNKNOWN].max(initial=0)) for pair in tables for table in pair)
    rows = []
    for marked, said in tables:
        _same_size(marked, said)
        known = marked != UNKNOWN
        marked, said = marked[known], np.where(said[known] == UNKNOWN, most, said[known])
        both = np.bincount(marked[marked == said], minlength=most)
        either = np.bincount(marked, minlength=most) + np.bincount(said, minlength=most)[:most] - both
        rows.append([both.sum() / max(1, known.sum()), *both, *either])
    return np.array(rows, np.float64)


def class_table(record: Mapping[str, Any]) -> np.ndarray:
    """The class of each pixel, int64 [height, width]."""
    return _table(given(record, "classes"), "classes")


def mean_class_iou(rows: np.ndarray) -> float:
    """mIoU of `class_pixels`; nan of no pixels."""
    both, either = np.split(rows[:, 1:].sum(0), 2)
    return float((both[either > 0] / either[either > 0]).mean()) if either.any() else float("nan")


def mask_precision(threshold: float) -> Metric:
    """P@threshold: share of objects with IoU > threshold."""
    ious = over_frames(jaccard)
    return _masks(name=f"P@{threshold:g}", rows=lambda found: (ious(found) > threshold).astype(np.float64))


def _pair(one: np.ndarray, said: Any) -> tuple[np.ndarray, np.ndarray]:
    other = np.zeros_like(one) if said is None else read_mask(said, "prediction")
    _same_size(one, other)
    return one, other


def _same_size(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape != other.shape:
        raise ConfigError(f"prediction: expected {one.shape[0]} rows of {one.shape[1]} pixels, found {other.shape}")


def _table(value: Any, what: str) -> np.ndarray:
    """int64 [height, width] of whole numbers from 0."""
    try:
        table = np.asarray(value)
    except ValueError:
        table = np.empty(0)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "biu" or table.min() < 0:
        raise ConfigError(f"{what}: expected rows of whole numbers, all of one length, found {shown(value)}")
    return table.astype(np.int64)


def _from_runs(value: Mapping[str, Any], what: str) -> np.ndarray:
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ConfigError(f"{what}: expected size [height, width] of run lengths, found {shown(size)}")
    runs = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list | tuple) or not all(type(run) is int and run >= 0 for run in runs):
        raise ConfigError(f"{what}: expected counts as COCO's text or a list of whole numbers, found {shown(counts)}")
    if sum(runs) != size[0] * size[1] or sum(runs) > MOST_PIXELS:
        raise ConfigError(f"{what}: expected run lengths of {size[0]} x {size[1]} pixels, found {sum(runs)}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T


_masks = partial(Metric, read=read_frames, asks=marked_masks)
_regions = partial(Metric, read=region_and_boundary, asks=marked_masks)
J = _regions(name="J", rows=lambda found: found[:, 0])
F = _regions(name="F", rows=lambda found: found[:, 1])
J_AND_F = _regions(name="J&F", rows=lambda found: found.mean(1))
DICE = _masks(name="Dice", rows=over_frames(dice))
HD95 = _masks(name="HD95", rows=over_frames(hausdorff), best="low")
MASK_IOU = _masks(name="mean IoU", rows=over_frames(jaccard))
OVERALL_IOU = _masks(name="overall IoU", rows=pixel_rows, total=quotient)
MASK_PRECISIONS = tuple(map(mask_precision, (0.5, 0.6, 0.7, 0.8, 0.9)))
CLASS_IOU = Metric(name="mIoU", rows=class_pixels, total=mean_class_iou, asks=class_table)
VIDEO_OBJECTS = (J, F, J_AND_F)
