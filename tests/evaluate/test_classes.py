"""Classification against scikit-learn, and against counts written out one by one.

evaluate_classes.json: random labels and scores (numpy's generator 1) of 2, 4 and 5 classes, the last with one that is
never the label; the words ranked by score, and what scikit-learn's functions of the metrics' names give for the first.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.classes import (
    ACCURACY,
    MACRO_F1,
    MACRO_PRECISION,
    MACRO_RECALL,
    MEAN_CLASS_ACCURACY,
    TOP_1,
    TOP_5,
    WEIGHTED_F1,
    WEIGHTED_PRECISION,
    WEIGHTED_RECALL,
    confusion,
    of_class,
    top,
)
from polymodal.evaluate.metric import Metric, Scored, measured

CASES = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_classes.json").read_text())["cases"]
OF_WORDS = (ACCURACY, MACRO_PRECISION, MACRO_RECALL, MACRO_F1, WEIGHTED_PRECISION, WEIGHTED_RECALL, WEIGHTED_F1)
METRICS = {metric.name: metric for metric in (*OF_WORDS, MEAN_CLASS_ACCURACY, *of_class("happy"), TOP_1, top(2))}
WORDS = st.sampled_from("abcd")


def scored(labels: list, predictions: list) -> list[Scored]:
    return [Scored(record={"label": a}, prediction=b) for a, b in zip(labels, predictions, strict=True)]


def value(metric: Metric, samples: list[Scored]) -> float:
    return metric.total(metric.of(samples).reshape(len(samples), -1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['words'])} classes")
def test_equal_to_scikit_learn(case: dict) -> None:
    samples = scored(case["labels"], case["ranked"])
    for name, expected in case["expected"].items():
        assert measured(METRICS[name], samples).value == pytest.approx(expected, abs=1e-12), name
    words, counts = confusion(samples)
    assert words == case["words"]
    assert counts[:, :-1].tolist() == case["confusion"] and not counts[:, -1].any()


@given(st.lists(st.tuples(WORDS, st.none() | WORDS), min_size=1, max_size=30))
def test_equal_to_counts(pairs: list[tuple[str, str | None]]) -> None:
    samples = scored([label for label, _ in pairs], [said for _, said in pairs])
    f1s, supports = [], []
    for word in sorted({word for pair in pairs for word in pair if word}):
        right = sum(label == said == word for label, said in pairs)
        wrong = sum((label == word) != (said == word) for label, said in pairs)
        f1s.append(2 * right / (2 * right + wrong))
        supports.append(sum(label == word for label, _ in pairs))
    assert value(MACRO_F1, samples) == pytest.approx(np.mean(f1s))
    assert value(WEIGHTED_F1, samples) == pytest.approx(np.average(f1s, weights=supports))
    assert value(WEIGHTED_RECALL, samples) == pytest.approx(value(ACCURACY, samples))
    assert confusion(samples)[1].sum() == len(pairs)


def test_no_answer_is_wrong_and_no_class() -> None:
    samples = scored(["cat", "cat", "dog"], ["cat", None, []])
    assert value(ACCURACY, samples) == pytest.approx(1 / 3)
    assert value(MACRO_F1, samples) == pytest.approx((2 / 3 + 0) / 2)
    assert value(MEAN_CLASS_ACCURACY, samples) == pytest.approx(0.25)
    assert confusion(samples)[1].tolist() == [[1, 0, 1], [0, 0, 1]]


def test_of_five() -> None:
    ranked = [["a", "b", "c", "d", "e", "f"]] * 2
    assert TOP_5.of(scored(["e", "f"], ranked)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("metric", "label", "prediction", "message"),
    [
        (ACCURACY, 3, "cat", "label: expected a text, found int 3"),
        (ACCURACY, "cat", 3, "prediction: expected a text, found int 3"),
        (TOP_5, "cat", "cat", "prediction: expected a list of labels, likeliest first, found str"),
        (
            of_class("yes")[2],
            "no",
            "no",
            "label: expected the positive class 'yes' in some row, found no; name another",
        ),
    ],
)
def test_mistakes_are_named(metric: Metric, label: object, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric.of(scored([label], [prediction]))
