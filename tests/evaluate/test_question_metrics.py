"""VQA accuracy, exact match and ANLS equal what the official scripts give.

`fixtures/evaluate_questions.json` holds inputs and numbers; its "sources" name script and revision.  It was made
outside the project: the two revisions of `vqaEval.py` with Python 3's `print`, and the package `anls`, on every
contraction of the script, on the traps below, and on texts joined at random (seed 0) of words with punctuation, numbers
and articles.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored, measured
from polymodal.evaluate.metrics import edit_distance
from polymodal.evaluate.questions import (
    ANLS,
    EXACT_MATCH,
    VQA_ACCURACY,
    VQA_ACCURACY_2015,
    anls,
    exact_match,
    normalise,
    vqa_accuracy,
    vqa_accuracy_2015,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_questions.json").read_text(encoding="utf-8"))
TEXT = st.text(st.sampled_from("abcAB .,'-1\n"), max_size=12)


def test_normalisation_equals_the_official_script() -> None:
    assert [normalise(text) for text, _ in GOLDEN["normalised"]] == [expected for _, expected in GOLDEN["normalised"]]


@pytest.mark.parametrize(("year", "score"), [("2021", vqa_accuracy), ("2015", vqa_accuracy_2015)])
def test_accuracy_equals_the_official_script(year: str, score) -> None:
    for case in GOLDEN["accuracy"]:
        assert score(case["prediction"], case["answers"]) == pytest.approx(case[year], abs=1e-9), case


def test_what_the_two_revisions_differ_in() -> None:
    assert (vqa_accuracy("Yes.", ["yes"] * 10), vqa_accuracy_2015("Yes.", ["yes"] * 10)) == (0, 1)
    assert (vqa_accuracy("2", ["two"] * 9 + ["2"]), vqa_accuracy_2015("2", ["two"] * 9 + ["2"])) == (1, 0.3)


def test_the_published_steps_of_accuracy() -> None:
    """0, 0.3, 0.6, 0.9 and 1 for 0 to 4 of ten people."""
    for matches, expected in enumerate((0, 0.3, 0.6, 0.9, 1, 1)):
        answers = ["cat"] * matches + [f"dog{i}" for i in range(10 - matches)]
        assert vqa_accuracy("cat", answers) == pytest.approx(expected)


def test_anls_equals_the_script_of_the_competition() -> None:
    for prediction, answers, expected in GOLDEN["anls"]:
        assert anls(prediction, answers) == pytest.approx(expected, abs=1e-12), (prediction, answers)


@given(TEXT, TEXT)
def test_edit_distance_equals_rapidfuzz(one: str, other: str) -> None:
    assert edit_distance(one, other) == Levenshtein.distance(one, other)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=4))
def test_anls_of_rapidfuzz(prediction: str, answers: list[str]) -> None:
    def plain(text: str) -> str:
        return " ".join(text.lower().split())

    similar = [Levenshtein.normalized_similarity(plain(prediction), plain(answer)) for answer in answers]
    assert anls(prediction, answers) == pytest.approx(max(s if s > 0.5 else 0 for s in similar), abs=1e-12)


def test_exact_match() -> None:
    assert exact_match("A red car.", ["red car"]) == 1
    assert exact_match("three", ["3", "4"]) == 1
    assert exact_match("red cars", ["red car"]) == 0


def test_metrics_of_records() -> None:
    texts = Scored(record={"answers": ["cat"] * 3 + ["a dog"] * 7}, prediction="cat")
    mappings = Scored(record={"answers": [{"answer": "yes"}, {"answer": "no"}, {"answer": "no"}]}, prediction="No.")
    assert VQA_ACCURACY.of([texts, mappings]) == pytest.approx(np.array([[0.9], [4 / 9]]))
    assert VQA_ACCURACY_2015.of([texts, mappings]) == pytest.approx(np.array([[0.9], [4 / 9]]))
    assert measured(EXACT_MATCH, [texts, mappings]).value == 1
    assert measured(ANLS, [texts, mappings]).value == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("record", "prediction", "message"),
    [
        ({}, "cat", "expected a field 'answers', found none"),
        ({"answers": []}, "cat", "with at least one"),
        ({"answers": "cat"}, "cat", "answers: expected a list of texts or of .*found str 'cat'"),
        ({"answers": ["cat", {"text": "cat"}]}, "cat", r"answers\[1\]"),
        ({"answers": ["cat"]}, "cat", "at least 2, found 1"),
        ({"answers": ["cat", "dog"]}, [0.5], "prediction: expected a text"),
    ],
)
def test_records_that_are_wrong(record: dict, prediction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VQA_ACCURACY.of([Scored(record=record, prediction=prediction)])
