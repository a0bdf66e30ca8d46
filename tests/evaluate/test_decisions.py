"""Decisions one by one and together: yes or no against scikit-learn, chains, choices, sentences, ranked lists.

evaluate_binary.json: random labels and scores (generator 0), some with ties, and what scikit-learn gives for them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.binary import BINARY
from polymodal.evaluate.groups import CHAINS, CHOICES, SENTENCES
from polymodal.evaluate.metric import Scored, all_measured, measured
from polymodal.evaluate.retrieval import MAP_10

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_binary.json").read_text())


def scored(records: list[dict], predictions: list) -> list[Scored]:
    return [Scored(record=a, prediction=b) for a, b in zip(records, predictions, strict=True)]


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda case: f"{len(case['labels'])} rows")
def test_equal_to_scikit_learn(case: dict) -> None:
    samples = scored([{"label": label} for label in case["labels"]], case["scores"])
    for each in all_measured(BINARY, samples):
        assert each.value == pytest.approx(case[each.name], abs=1e-12), each.name


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=2, max_size=12))
def test_the_area_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, float]]) -> None:
    yes, no = ([score for label, score in pairs if label == side] for side in (True, False))
    samples = scored([{"label": label} for label, _ in pairs], [score for _, score in pairs])
    found = measured(BINARY[-1], samples).value
    if yes and no:
        order = [(a > b) + (a == b) / 2 for a in yes for b in no]
        assert found == pytest.approx(sum(order) / len(order))
    else:
        assert np.isnan(found)


def test_rows_that_are_right_together() -> None:
    records = [{"label": label, "sentence": text} for text, label in (("a", "yes"), ("a", "no"), ("b", "no"))]
    assert measured(SENTENCES, scored(records, ["yes", "yes", "no"])).value == 0.5
    chosen = [{"answer": 1, "rationale": 2}, {"answer": 0, "rationale": 0}, {"answer": 3, "rationale": 1}]
    said = [{"answer": 1, "rationale": 2}, {"answer": 0, "rationale": 3}, {"answer": 2, "rationale": 1}]
    found = {each.name: each.value for each in all_measured(CHOICES, scored(chosen, said))}
    assert found == pytest.approx({"Q->AR": 1 / 3, "Q->A": 2 / 3, "QA->R": 2 / 3})
    done = {
        each.name: each.value for each in all_measured(CHAINS, scored([{"tasks": list("abcde")}] * 4, [5, 3, 0, 1]))
    }
    assert done["mean length"] == 2.25 and done["1 in a row"] == 0.75 and done["5 in a row"] == 0.25


@pytest.mark.parametrize(
    ("scores", "relevant", "expected"),
    [([3, 2, 1], [0], 1), ([3, 2, 1], [2], 1 / 3), ([3, 2, 1], [0, 2], (1 + 2 / 3) / 2), ([1, 1, 1], [0], 1 / 3),
     (list(range(12, 0, -1)), [10], 0), (list(range(12, 0, -1)), list(range(12)), 1)],
)  # fmt: skip
def test_average_precision_in_the_first_ten(scores: list, relevant: list, expected: float) -> None:
    assert MAP_10.of(scored([{"relevant": relevant}], [scores]))[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "record", "prediction", "message"),
    [
        (BINARY[0], {"label": "yes"}, True, "label: expected true or false, 1 or 0, found str 'yes'"),
        (BINARY[0], {"label": 1}, 1.5, "prediction: expected true, false or a number from 0 to 1, found float 1.5"),
        (SENTENCES, {"label": "a"}, "a", "expected a field 'sentence'"),
        (CHOICES[0], {"answer": 0, "rationale": -1}, {"answer": 0, "rationale": 0}, "rationale: expected the number"),
        (CHOICES[0], {"answer": 0, "rationale": 0}, 1, 'prediction: expected {"answer": 0, "rationale": 1}'),
        (CHAINS[0], {"tasks": ["a"]}, 2, "prediction: expected how many of 1 tasks were done, found int 2"),
    ],
)
def test_mistakes_are_named(metric, record: dict, prediction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(metric, scored([record], [prediction]))
