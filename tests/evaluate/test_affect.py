"""Sentiment and emotion against MMSA, torchmetrics and MulT's evaluation.

evaluate_affect.json: random labels on the steps of the data sets with shifted predictions (numpy's generator 2), the
first ones at edges (0, halves, the edges of CH-SIMS, beyond the range).  `expected` is what MMSA's
MetricsTop("regression") gives, its rounding to four digits taken out; it computes MAE and Corr in float32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.affect import CCC, CORR, EMOTIONS, MOSEI, MOSEI_EMOTIONS, MOSI, RMSE, SIMS
from polymodal.evaluate.metric import Metric, Scored, measured

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_affect.json").read_text())
NAMES = {
    "MOSI": {
        "Has0_acc_2": "Acc-2 (negative/non-negative)",
        "Has0_F1_score": "F1 (negative/non-negative)",
        "Non0_acc_2": "Acc-2 (negative/positive)",
        "Non0_F1_score": "F1 (negative/positive)",
        "Mult_acc_5": "Acc-5",
        "Mult_acc_7": "Acc-7",
        "MAE": "MAE",
        "Corr": "Corr",
    },
    "SIMS": {
        "Mult_acc_2": "Acc-2",
        "Mult_acc_3": "Acc-3",
        "Mult_acc_5": "Acc-5",
        "F1_score": "F1",
        "MAE": "MAE",
        "Corr": "Corr",
    },
}
VALUES = st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), min_size=2, max_size=20)


def scored(labels: list, predictions: list) -> list[Scored]:
    return [Scored(record={"label": a}, prediction=b) for a, b in zip(labels, predictions, strict=True)]


def value(metric: Metric, samples: list[Scored]) -> float:
    return metric.total(metric.of(samples).reshape(len(samples), -1))


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda case: f"{case['dataset']}-{len(case['labels'])}")
def test_equal_to_mmsa(case: dict) -> None:
    metrics = {metric.name: metric for metric in {"MOSI": MOSI, "SIMS": SIMS}[case["dataset"]]}
    names = NAMES[case["dataset"]]
    assert set(names.values()) == set(metrics) and set(names) == set(case["expected"])
    samples = scored(case["labels"], case["predictions"])
    for theirs, expected in case["expected"].items():
        assert measured(metrics[names[theirs]], samples).value == pytest.approx(expected, abs=1e-6), theirs


def test_ccc_equals_torchmetrics_but_for_its_divisor() -> None:
    """torchmetrics divides by N - 1, Lin by N; with means and variances at hand one follows from the other."""
    x, y = np.array(STORED["ccc"]["labels"]), np.array(STORED["ccc"]["predictions"])
    gap = (x.mean() - y.mean()) ** 2
    by_n_less_one = 2 * np.cov(x, y)[0, 1] / (x.var(ddof=1) + y.var(ddof=1) + gap)
    assert by_n_less_one == pytest.approx(STORED["ccc"]["torchmetrics"], abs=1e-9)
    expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + gap)
    assert value(CCC, scored(x.tolist(), y.tolist())) == pytest.approx(expected, abs=1e-6)


def test_weighted_accuracy_equals_mult() -> None:
    stored = STORED["emotions"]
    labels, predictions = ([dict(zip(EMOTIONS, row, strict=True)) for row in stored[key]]
                           for key in ("labels", "predictions"))  # fmt: skip
    found = [value(metric, scored(labels, predictions)) for metric in MOSEI_EMOTIONS]
    assert found == pytest.approx(stored["weighted_accuracy"], abs=1e-12)
    everywhere = scored([{"happy": 1}, {"happy": 2}], [{"happy": 1}, {}])
    assert np.isnan(value(MOSEI_EMOTIONS[0], everywhere))


@given(VALUES)
def test_correlations_equal_numpy(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array(column, float) / 10 for column in zip(*pairs, strict=True))
    assume(np.ptp(labels) and np.ptp(predictions))
    samples = scored(labels.tolist(), predictions.tolist())
    assert value(CORR, samples) == pytest.approx(np.corrcoef(labels, predictions)[0, 1], abs=1e-5)
    assert abs(value(CCC, samples)) <= abs(value(CORR, samples)) + 1e-9
    assert value(RMSE, samples) == pytest.approx(np.sqrt(np.mean((labels - predictions) ** 2)), abs=1e-5)


@given(VALUES)
def test_right_answers_score_best(pairs: list[tuple[int, int]]) -> None:
    labels = [label / 10 for label, _ in pairs]
    assume(len(set(labels)) > 1 and any(labels))
    for metric in (*MOSEI, CCC):
        found = value(metric, scored(labels, labels))
        assert found == pytest.approx(0 if metric.best == "low" else 1)
    constant = [value(metric, scored(labels, [0.25] * len(labels))) for metric in (CORR, CCC)]
    assert np.isnan(constant[0]) and constant[1] == pytest.approx(0, abs=1e-9)
    # three times 0.1 has a mean that is not 0.1: rounding is no agreement
    assert all(np.isnan(value(metric, scored([0.1] * 3, [0.1] * 3))) for metric in (CORR, CCC))


@pytest.mark.parametrize(
    ("metric", "label", "prediction", "message"),
    [
        (MOSI[0], "positive", 1.0, "label: expected a finite number, found str 'positive'"),
        (MOSI[0], 1.0, None, "prediction: expected a finite number, found None"),
        (CCC, 1.0, float("inf"), "prediction: expected a finite number, found float inf"),
        (MOSEI_EMOTIONS[0], 1.0, {}, "label: expected intensities by emotion, .* found float 1.0"),
        (MOSEI_EMOTIONS[0], {}, {"happy": "yes"}, "prediction, happy: expected a finite number, found str 'yes'"),
    ],
)
def test_mistakes_are_named(metric: Metric, label: object, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric.of(scored([label], [prediction]))
