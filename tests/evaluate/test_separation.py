"""SDR, SIR and SAR against mir_eval.

evaluate_separation.json: what mir_eval gives for the two coloured noises and their estimates (leaks, an echo, noise)
that `made` draws from a seed.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Scored, all_measured, measured
from polymodal.evaluate.separation import BSS_EVAL, projected

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_separation.json").read_text())


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng, n = np.random.default_rng(seed), 2400
    sources = np.array(
        [np.convolve(rng.normal(size=n + 40), np.exp(-np.arange(41) / (3 + 5 * k)), "valid") for k in range(2)]
    ).round(4)
    estimates = [
        sources[k] + 0.3 * sources[1 - k] + 0.2 * np.roll(sources[k], 7) + 0.1 * rng.normal(size=n) for k in range(2)
    ]
    return sources, np.array(estimates).round(4)


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda case: f"seed {case['seed']}")
def test_equal_to_mir_eval(case: dict) -> None:
    sources, estimates = made(case["seed"])
    sample = Scored(record={"sources": sources.tolist()}, prediction=estimates.tolist())
    found = {each.name.lower(): each.value for each in all_measured(BSS_EVAL, [sample])}
    assert found == pytest.approx({name: np.mean(case[name]) for name in ("sdr", "sir", "sar")}, abs=1e-6)


def test_a_filter_of_a_source_is_found_again() -> None:
    sources, _ = made(5)
    echo = np.convolve(sources[0], [1, 0, 0.5])[: sources.shape[1]]
    assert projected(sources[:1], echo, 4)[: sources.shape[1]] == pytest.approx(echo, abs=0.05)
    assert projected(sources, sources[0], 4)[: sources.shape[1]] == pytest.approx(sources[0], abs=1e-8)


@pytest.mark.parametrize(
    ("sources", "prediction", "message"),
    [
        ([[1, 2], [1]], [[1, 2]], r"sources: expected as many samples in each, found \[1, 2\]"),
        ([[0, 0]], [[1, 2]], "sources: expected sounds, found silence"),
        ([[1, 2]], [[1, 2], [1, 2]], "prediction: expected 1 lists of 2 samples"),
        ([], [[1, 2]], "sources: expected a list of samples of each source"),
    ],
)
def test_mistakes_are_named(sources: list, prediction: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(BSS_EVAL[0], [Scored(record={"sources": sources}, prediction=prediction)])
