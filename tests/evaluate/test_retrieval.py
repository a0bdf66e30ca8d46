"""Retrieval both ways against VSE++'s evaluation, and against sorting.

evaluate_retrieval.json: 60 random unit vectors of pictures, five noisy ones of captions for each (generator 3, three
digits); what VSE++'s i2t and t2i give for all of them and for five folds.  Its median is rounded down.
"""

import json
from itertools import permutations
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored, measured
from polymodal.evaluate.metrics import ranks
from polymodal.evaluate.retrieval import (
    BOTH_WAYS,
    MEDIAN_RANK,
    PICTURE_TO_TEXT,
    RETRIEVAL,
    RSUM,
    TEXT_TO_PICTURE,
    fold,
    query_ranks,
)

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_retrieval.json").read_text())
SIMILARITIES = np.array(STORED["images"]) @ np.array(STORED["captions"]).T
SAMPLES = [Scored(record={"captions": ["a"] * 5}, prediction=row.tolist()) for row in SIMILARITIES]


def values(metrics: tuple[Metric, ...], samples: list[Scored]) -> list[float]:
    """As VSE++ prints them: recalls in percent, the median rounded down."""
    found = {metric.name: metric.total(metric.of(samples).reshape(len(samples), -1)) for metric in metrics}
    return [100 * v if "R@" in name else floor(v) if "MedR" in name else v for name, v in found.items()]


def test_equal_to_vsepp() -> None:
    assert values(PICTURE_TO_TEXT, SAMPLES) == pytest.approx(STORED["i2t"], abs=1e-9)
    assert values(TEXT_TO_PICTURE, SAMPLES) == pytest.approx(STORED["t2i"], abs=1e-9)
    expected = sum(STORED["i2t"][:3] + STORED["t2i"][:3])
    assert 100 < expected < 500
    result = measured(RSUM, SAMPLES)
    assert result.value == pytest.approx(expected) and result.low < expected < result.high


@pytest.mark.parametrize("which", range(5))
def test_folds_equal_vsepp(which: int) -> None:
    found = values((*PICTURE_TO_TEXT, *TEXT_TO_PICTURE), fold(SAMPLES, which))
    assert found == pytest.approx(STORED["folds"][which], abs=1e-9)


@given(st.data(), st.integers(2, 8))
def test_a_rank_is_a_place_in_the_sorted_list(data: st.DataObject, gallery: int) -> None:
    scores = data.draw(st.permutations(range(gallery)))
    relevant = data.draw(st.sets(st.integers(0, gallery - 1), min_size=1))
    order = sorted(range(gallery), key=lambda item: -scores[item])
    sample = [Scored(record={"relevant": sorted(relevant)}, prediction=list(scores))]
    expected = 1 + next(place for place, item in enumerate(order) if item in relevant)
    assert query_ranks(sample).tolist() == [expected]
    assert [metric.of(sample)[0] for metric in RETRIEVAL] == [
        *(float(expected <= depth) for depth in (1, 5, 10)), expected, expected]  # fmt: skip


def test_a_model_that_tells_nothing_apart_gets_no_credit() -> None:
    flat = [Scored(record={"captions": ["a", "b"]}, prediction=[0.5] * 24) for _ in range(12)]
    assert {metric.name: measured(metric, flat).value for metric in BOTH_WAYS if metric.best == "high"} == {
        f"{way} R@{depth}": 0 for way in ("picture to text", "text to picture") for depth in (1, 5, 10)
    } | {"RSUM": 0}
    assert measured(MEDIAN_RANK, [Scored(record={"relevant": [0]}, prediction=[1, 1, 1])]).value == 3


def test_the_same_caption_twice_is_no_miss() -> None:
    sample = Scored(record={"relevant": [0, 1, 1]}, prediction=[0.9, 0.9, 0.9, 0.1])
    assert query_ranks([sample]).tolist() == [2]
    assert query_ranks([Scored(record={"relevant": [0, 1, 2]}, prediction=sample.prediction)]).tolist() == [1]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.data())
def test_ties_count_as_the_worst_order_that_vsepp_could_sort_them_in(scores: list[int], data: st.DataObject) -> None:
    """VSE++ sorts the gallery and takes the first of a picture's own captions; equal scores stand in any order."""
    own = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    orders = [order for order in permutations(range(len(scores))) if is_sorted([-scores[item] for item in order])]
    worst = max(min(order.index(item) for item in own) for order in orders)
    # The order puts wrong ones first among equals, so the right ones that tie stand behind them, not before each other.
    assert ranks(torch.tensor([scores]), [own]) == [worst]


def is_sorted(values: list[int]) -> bool:
    return values == sorted(values)


def test_pictures_may_have_different_numbers_of_captions() -> None:
    samples = [
        Scored(record={"captions": ["a"]}, prediction=[0.9, 0.1, 0.2]),
        Scored(record={"captions": ["b", "c"]}, prediction=[0.8, 0.3, 0.1]),
    ]
    # picture 2 finds its best caption at place 2; of the three captions a and b find their picture first
    assert values(PICTURE_TO_TEXT[:1], samples) == [50]
    assert values(TEXT_TO_PICTURE[:1], samples) == pytest.approx([200 / 3])


@pytest.mark.parametrize(
    ("metric", "records", "predictions", "message"),
    [
        (MEDIAN_RANK, [{"relevant": [2]}], [[1.0, 2.0]], "relevant: expected indices from 0 to 1, found list .2."),
        (
            MEDIAN_RANK,
            [{"relevant": []}],
            [[1.0, 2.0]],
            "relevant: expected a list of indices .* with at least one",
        ),
        (MEDIAN_RANK, [{"relevant": [0]}] * 2, [[1.0, 2.0], [1.0]], r"as many similarities .* found \[1, 2\]"),
        (MEDIAN_RANK, [{"relevant": [0]}], [[1.0, float("nan")]], "prediction: expected a list of finite similarities"),
        (MEDIAN_RANK, [{"relevant": [0]}], [None], "prediction: expected"),
        (RSUM, [{"captions": ["a"]}], [[1.0, 2.0]], "similarities with all 1 captions of the rows, found 2"),
        (RSUM, [{"captions": "a"}], [[1.0]], "captions: expected a list of captions, with at least one, found str 'a'"),
    ],
)
def test_mistakes_are_named(metric: Metric, records: list, predictions: list, message: str) -> None:
    samples = [Scored(record=a, prediction=b) for a, b in zip(records, predictions, strict=True)]
    with pytest.raises(ConfigError, match=message):
        metric.of(samples)
    with pytest.raises(ConfigError, match="fold 0 of 5: expected rows that divide evenly, found 3"):
        fold(SAMPLES[:3], 0)
