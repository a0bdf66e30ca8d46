"""Boxes and spans against pycocotools and the evaluation of QVHighlights, and against counted cells.

evaluate_places.json: 40 random boxes and spans with a shifted prediction each (numpy's generator 0);
`box_ious` by pycocotools `mask.iou`, `span_ious` and `recall_at_one` by the functions that its `source` names.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored, measured
from polymodal.evaluate.places import (
    GROUNDING,
    GROUNDING_ACCURACY,
    MEAN_IOU,
    MOMENTS,
    SPAN_MEAN_IOU,
    box_iou,
    interval_iou,
    span_recall,
)

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_places.json").read_text())
GRID = 12
EDGES = st.integers(0, GRID)


def boxes() -> list[Scored]:
    pairs = zip(STORED["boxes"], STORED["predicted_boxes"], strict=True)
    return [Scored(record={"box": box}, prediction=predicted) for box, predicted in pairs]


def spans() -> list[Scored]:
    pairs = zip(STORED["spans"], STORED["predicted_spans"], strict=True)
    return [Scored(record={"span": span}, prediction=[predicted]) for span, predicted in pairs]


def test_boxes_equal_pycocotools() -> None:
    assert MEAN_IOU.of(boxes()) == pytest.approx(STORED["box_ious"], abs=1e-12)
    expected = np.mean(np.array(STORED["box_ious"]) >= 0.5)
    assert 0 < expected < 1
    assert measured(GROUNDING_ACCURACY, boxes()).value == expected


def test_spans_equal_the_evaluation_of_qvhighlights() -> None:
    assert SPAN_MEAN_IOU.of(spans()) == pytest.approx(STORED["span_ious"], abs=1e-12)
    for threshold, percent in STORED["recall_at_one"].items():
        metric = next(each for each in MOMENTS if each.name == f"R@1, IoU={float(threshold):g}")
        assert 100 * measured(metric, spans()).value == pytest.approx(percent, abs=0.0051)


@given(st.tuples(*[EDGES] * 8))
def test_a_box_is_its_cells(edges: tuple[int, ...]) -> None:
    one, other = edges[:4], edges[4:]
    cells = np.zeros((2, GRID, GRID), bool)
    for painted, (left, top, right, bottom) in zip(cells, (one, other), strict=True):
        painted[top:bottom, left:right] = True
    union = (cells[0] | cells[1]).sum()
    expected = (cells[0] & cells[1]).sum() / union if union else 0.0
    assert box_iou(np.array(one) / GRID, np.array(other) / GRID) == pytest.approx(expected)
    assert box_iou(one, other) == box_iou(other, one)


@given(st.tuples(*[EDGES] * 4))
def test_a_span_is_its_seconds(edges: tuple[int, ...]) -> None:
    one, other = (set(range(*each)) for each in (edges[:2], edges[2:]))
    expected = len(one & other) / len(one | other) if one | other else 0.0
    assert interval_iou(edges[:2], edges[2:]) == pytest.approx(expected)


@settings(max_examples=30)
@given(st.lists(st.tuples(EDGES, EDGES), max_size=5), st.integers(1, 6), st.floats(0.1, 0.9))
def test_more_spans_never_count_less(found: list[tuple[int, int]], first: int, threshold: float) -> None:
    sample = [Scored(record={"span": [2, 7]}, prediction=[list(span) for span in found])]
    assert span_recall(first, threshold).of(sample) <= span_recall(first + 1, threshold).of(sample)
    hit = any(interval_iou([2, 7], span) >= threshold for span in found[:first])
    assert span_recall(first, threshold).of(sample)[0] == hit


def test_exactly_half_counts_and_nothing_said_does_not() -> None:
    record = {"box": [0.0, 0.0, 1.0, 0.5]}
    samples = [Scored(record=record, prediction=said) for said in ([0.0, 0.0, 1.0, 1.0], None, [0.5, 0.5, 0.2, 0.2])]
    assert [metric.of(samples).tolist() for metric in GROUNDING] == [[1, 0, 0], [0.5, 0, 0]]
    assert span_recall(1, 0.3).of([Scored(record={"span": [0, 1]}, prediction=[])]).tolist() == [0]


@pytest.mark.parametrize(
    ("record", "prediction", "message"),
    [
        ({}, None, "expected a field 'box', found none"),
        ({"box": [0, 0, 240, 180]}, None, r"box: expected shares of the picture from 0 to 1, found \[0.0, 0.0, 240"),
        ({"box": [0.5, 0, 0.5, 1]}, None, r"box: expected \[left, top, right, bottom\] with an area"),
        ({"box": [0, 0, 1]}, None, r"box: expected a list of 4 finite numbers, found list \[0, 0, 1\]"),
        ({"box": [0, 0, 1, 1]}, [0, 0, 1, float("nan")], "prediction: expected a list of 4 finite numbers"),
        ({"box": [0, 0, 1, 1]}, "left", "prediction: expected a list of 4 finite numbers, found str 'left'"),
    ],
)
def test_wrong_boxes_are_named(record: dict, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MEAN_IOU.of([Scored(record=record, prediction=prediction)])


@pytest.mark.parametrize(
    ("span", "prediction", "message"),
    [
        ([5, 5], [], "span: expected .* end after start, found"),
        ([0, 5], None, "prediction: expected a list of .start, end., best first, found None"),
        ([0, 5], [1, 2], "prediction: expected a list of 2 finite numbers, found int 1"),
    ],
)
def test_wrong_spans_are_named(span: list, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SPAN_MEAN_IOU.of([Scored(record={"span": span}, prediction=prediction)])
