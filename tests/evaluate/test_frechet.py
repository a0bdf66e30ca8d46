"""Fréchet and kernel distance against scipy's square root of a matrix and clean-fid.

evaluate_frechet.json: two sets of 40 random features of 6 numbers, and two of 5 and 4 features of 8, fewer than numbers
(generator 5); Fréchet distances by the formula with scipy's sqrtm, KID by clean-fid's kernel_distance.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.frechet import FRECHET, KID, frechet_distance, kernel_distance
from polymodal.evaluate.metric import Scored, measured

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_frechet.json").read_text())
REAL, MADE = STORED["real"], STORED["made"]


def test_equal_to_the_references() -> None:
    assert frechet_distance(REAL, MADE) == pytest.approx(STORED["frechet"], abs=1e-9)
    assert frechet_distance(*STORED["few"]) == pytest.approx(STORED["frechet_few"], rel=1e-6)
    assert kernel_distance(REAL, MADE) == pytest.approx(STORED["kid"], rel=1e-12)


def test_as_metrics() -> None:
    samples = [Scored(record={"features": a}, prediction=b) for a, b in zip(REAL, MADE, strict=True)]
    assert FRECHET.total(FRECHET.of(samples)) == pytest.approx(STORED["frechet"], abs=1e-9)
    result = measured(KID, samples)
    assert result.value == pytest.approx(STORED["kid"])
    assert np.isnan(result.low) and np.isnan(result.high)  # resampled sets repeat rows, so they say nothing


@given(st.integers(1, 5), st.integers(0, 99))
def test_a_shift_costs_its_square(width: int, seed: int) -> None:
    one, shift = np.random.default_rng(seed).normal(size=(12, width)), np.arange(width)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, one + shift) == pytest.approx(float(shift @ shift), abs=1e-6)
    other = np.random.default_rng(seed + 1000).normal(size=(9, width))
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), abs=1e-6)


def test_one_number() -> None:
    # of two normal distributions: (difference of means)^2 + (difference of deviations)^2
    one, other = np.array([[0.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [3.0]])
    assert frechet_distance(one, other) == pytest.approx((2 - 1) ** 2)


@pytest.mark.parametrize(
    ("features", "prediction", "message"),
    [
        ([1.0, "a"], [1.0, 2.0], "features: expected a list of finite numbers, found list"),
        ([1.0, 2.0], None, "prediction: expected a list of finite numbers, found None"),
        ([1.0, 2.0], [1.0], r"features: expected as many numbers in every row and prediction, found \[1, 2\]"),
    ],
)
def test_mistakes_are_named(features: list, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FRECHET.of([Scored(record={"features": features}, prediction=prediction)])


def test_one_row_has_no_spread() -> None:
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ConfigError, match=r"two rows or more with one D, found \[\(1, 2\), \(2, 2\)\]"):
            distance([[1.0, 2.0]], [[1.0, 2.0]] * 2)
