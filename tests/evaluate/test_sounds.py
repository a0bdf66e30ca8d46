"""SI-SDR against torchmetrics and fast-bss-eval.

evaluate_sounds.json: three sines with noise, mixed with another, and an estimate of another loudness and mean (numpy's
generator 5); what the two libraries give for the estimate, and torchmetrics for the mixture.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored, measured
from polymodal.evaluate.sounds import SI_SDR, SI_SDR_GAIN, si_sdr

SOUNDS = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_sounds.json").read_text())["sounds"]
SAMPLES = [Scored(record=sound, prediction=sound["prediction"]) for sound in SOUNDS]


def test_equal_to_the_libraries() -> None:
    assert SI_SDR.of(SAMPLES) == pytest.approx([sound["si_sdr"] for sound in SOUNDS], abs=1e-9)
    assert SI_SDR.of(SAMPLES) == pytest.approx([sound["fast_bss_eval"] for sound in SOUNDS], abs=1e-6)
    gains = [sound["si_sdr"] - sound["mixture_si_sdr"] for sound in SOUNDS]
    assert SI_SDR_GAIN.of(SAMPLES) == pytest.approx(gains, abs=1e-9)
    assert measured(SI_SDR_GAIN, SAMPLES).value == pytest.approx(np.mean(gains))


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 99))
def test_loudness_and_mean_do_not_matter(loudness: float, mean: float, seed: int) -> None:
    source, noise = np.random.default_rng(seed).normal(size=(2, 50))
    expected = si_sdr(source + noise, source)
    assert si_sdr(loudness * (source + noise) + mean, source) == pytest.approx(expected, abs=1e-6)


def test_a_known_angle() -> None:
    # noise at a right angle to the source, a tenth of its length: 20 dB
    assert si_sdr(np.array([1.0, -1, 0.1, -0.1]), np.array([1.0, -1, 0, 0])) == pytest.approx(20)
    assert np.isfinite(si_sdr(np.zeros(4), np.array([1.0, -1, 0, 0])))
    assert si_sdr(np.array([1.0, -1]), np.array([1.0, -1])) > 100


@pytest.mark.parametrize(
    ("metric", "record", "prediction", "message"),
    [
        (SI_SDR, {"source": [1, 1]}, [1, 2], "source: expected a sound, found silence"),
        (SI_SDR, {"source": [1, 2]}, [1, 2, 3], "prediction: expected 2 samples as the source has, found 3"),
        (SI_SDR, {"source": [[1, 2]]}, [1], "source: expected a list of finite numbers"),
        (SI_SDR, {"source": [1, 2]}, None, "prediction: expected a list of finite numbers"),
        (SI_SDR_GAIN, {"source": [1, 2]}, [1, 2], "expected a field 'mixture', found source"),
    ],
)
def test_mistakes_are_named(metric: Metric, record: dict, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric.of([Scored(record=record, prediction=prediction)])
