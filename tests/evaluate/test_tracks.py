"""Tracking against pysot-toolkit.

evaluate_tracks.json: three videos of random boxes [left, top, width, height] and shifted ones (generator 5), one
of them with frames without the object; what success_overlap and success_error give at the thresholds that are reported.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored, measured
from polymodal.evaluate.tracks import NORMALISED_PRECISION, PRECISION_20, SUCCESS_AUC, TRACKING

VIDEOS = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_tracks.json").read_text())["videos"]


def corners(boxes: list) -> list:
    return [box and [box[0], box[1], box[0] + box[2], box[1] + box[3]] for box in boxes]


def test_equal_to_pysot() -> None:
    samples = [Scored(record={"boxes": corners(v["boxes"])}, prediction=corners(v["predictions"])) for v in VIDEOS]
    for metric, name in zip(TRACKING, ("success", "precision", "normalised"), strict=True):
        expected = [video[name] for video in VIDEOS]
        assert metric.of(samples) == pytest.approx(expected, abs=1e-12)
        assert measured(metric, samples).value == pytest.approx(np.mean(expected))


def test_edges() -> None:
    box = [10, 10, 30, 50]
    away = [10 + 20, 10, 30 + 20, 50]
    samples = [Scored(record={"boxes": [box, box]}, prediction=said) for said in ([box, box], [away, None])]
    assert SUCCESS_AUC.of(samples) == pytest.approx([20 / 21, 0])
    assert PRECISION_20.of(samples).tolist() == [1, 0.5]
    assert NORMALISED_PRECISION.of(samples).tolist() == [1, 0]
    unseen = [Scored(record={"boxes": [None]}, prediction=[box])]
    assert [metric.of(unseen).tolist() for metric in TRACKING] == [[0], [0], [0]]


@pytest.mark.parametrize(
    ("boxes", "prediction", "message"),
    [
        ([], [], "boxes: expected a list of a box or None for each frame, with at least one, found list"),
        ([None], [], "prediction: expected a list of 1 boxes as the row has, found list"),
        ([[5, 5, 5, 9]], [None], "boxes: expected .* in pixels with an area, found"),
        ([[1, 2, 3]], [None], "boxes: expected a list of 4 finite numbers"),
        ([[1, 2, 3, 4]], [[1]], "prediction: expected a list of 4 finite numbers"),
    ],
)
def test_mistakes_are_named(boxes: list, prediction: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SUCCESS_AUC.of([Scored(record={"boxes": boxes}, prediction=prediction)])
