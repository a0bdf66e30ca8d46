"""Moments and highlights against QVHighlights' own evaluation.

evaluate_highlights.json: 24 queries drawn at random (generator 5), with ties, too few and too many scores, and what the
official functions gave: average precision of each query (`moment_ap`, `highlight_ap`) and the printed table (`brief`).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from polymodal.errors import ConfigError
from polymodal.evaluate.highlights import HIGHLIGHTS, MOMENT_RANKING, clip_precision, read_moments
from polymodal.evaluate.metric import Scored, all_measured, measured

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_highlights.json").read_text())
MOMENTS = [
    Scored(record={"spans": row["relevant_windows"]}, prediction=row["pred_relevant_windows"]) for row in STORED["rows"]
]
CLIPS = [Scored(record=row, prediction=row["pred_saliency_scores"]) for row in STORED["rows"]]


def test_average_precision_of_each_query() -> None:
    assert read_moments(MOMENTS)[:, :-1] == pytest.approx(np.array(STORED["moment_ap"]), abs=1e-12)
    for word, name in (("fair", "Fair"), ("good", "Good"), ("very good", "VeryGood")):
        (metric,) = (each for each in HIGHLIGHTS if each.name == f"mAP ({word})")
        assert metric.of(CLIPS) == pytest.approx(np.mean(STORED["highlight_ap"][name], axis=1), abs=1e-7)


def test_the_printed_table() -> None:
    names = {"mAP": "MR-full-mAP", "mAP@0.5": "MR-full-mAP@0.5", "mAP@0.75": "MR-full-mAP@0.75",
             "R1@0.5": "MR-full-R1@0.5", "R1@0.7": "MR-full-R1@0.7", "mAP (very good)": "HL-min-VeryGood-mAP",
             "HIT@1 (very good)": "HL-min-VeryGood-Hit1", "mAP (good)": "HL-min-Good-mAP",
             "HIT@1 (good)": "HL-min-Good-Hit1", "mAP (fair)": "HL-min-Fair-mAP",
             "HIT@1 (fair)": "HL-min-Fair-Hit1"}  # fmt: skip
    found = {
        each.name: each.value for each in (*all_measured(MOMENT_RANKING, MOMENTS), *all_measured(HIGHLIGHTS, CLIPS))
    }
    assert {name: round(100 * value, 2) for name, value in found.items()} == {
        name: STORED["brief"][official] for name, official in names.items()
    }


def test_a_query_without_a_span_counts_nothing() -> None:
    samples = [Scored(record={"spans": [[0, 2]]}, prediction=said) for said in ([], [[0, 2, 0.5]])]
    assert [each.value for each in all_measured(MOMENT_RANKING, samples)] == [0.5] * 5


@pytest.mark.parametrize(("right", "expected"), [([0, 0], 0), ([1, 1], 1), ([1, 0], 1), ([0, 1], 0.5)])
def test_clips(right: list[int], expected: float) -> None:
    assert clip_precision(np.array(right, bool), np.array([0.9, 0.1])) == expected


@pytest.mark.parametrize(
    ("metric", "record", "prediction", "message"),
    [
        (MOMENT_RANKING[0], {"spans": [[2, 1]]}, [], "spans: expected .* with end after start, found"),
        (MOMENT_RANKING[0], {"spans": []}, [], "spans: expected a list of .start, end. in seconds, with at least one"),
        (MOMENT_RANKING[0], {"spans": [[1, 2]]}, [[1, 2]], "prediction: expected a list of 3 finite numbers"),
        (HIGHLIGHTS[0], {"duration": 4}, [1], "expected a field 'relevant_clip_ids'"),
        (HIGHLIGHTS[0], {"duration": 4, "relevant_clip_ids": [2], "saliency_scores": [[1, 2, 3]]}, [1], "from 0 to 1"),
        (HIGHLIGHTS[0], {"duration": 4, "relevant_clip_ids": [1], "saliency_scores": []}, [1], "expected 1 lists of 3"),
    ],
)
def test_mistakes_are_named(metric, record: dict, prediction: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(metric, [Scored(record=record, prediction=prediction)])
