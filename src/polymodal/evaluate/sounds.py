"""Separated sounds: SI-SDR and its gain over the mixture, in dB (Le Roux et al. 2019, arXiv 1811.02508).

A row has `source`, the samples of the true source, and for the gain `mixture`, what the model was given; a prediction
is as many samples.
    SI-SDR = 10 log10(|a s|^2 / |a s - x|^2), a = <x, s> / |s|^2, of signals whose means were taken out
    SI-SDRi = SI-SDR of the prediction - SI-SDR of the mixture

As torchmetrics' scale_invariant_signal_distortion_ratio(zero_mean=True) in float64, whose epsilon keeps silence and
a perfect answer finite.  Which of several predictions belongs to which source is the task's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, vector

LEAST = float(np.finfo(np.float64).eps)


def si_sdr(signal: np.ndarray, source: np.ndarray) -> float:
    """SI-SDR in dB of two signals [samples]; higher is better."""
    signal, source = signal - signal.mean(), source - source.mean()
    target = (signal @ source + LEAST) / (source @ source + LEAST) * source
    noise = target - signal
    return float(10 * np.log10((target @ target + LEAST) / (noise @ noise + LEAST)))


def samples_of(value: Any, what: str, count: int | None = None) -> np.ndarray:
    """float64 [samples] of a list or array; `count` of them where that is given.  Raises ConfigError for all else."""
    signal = vector(value, what)
    if count is not None and len(signal) != count:
        raise ConfigError(f"{what}: expected {count} samples as the source has, found {len(signal)}; align the signals")
    return signal


def source_of(record: Mapping[str, Any]) -> np.ndarray:
    """The row's `source`.  Raises ConfigError where it is silent."""
    source = samples_of(given(record, "source"), "source")
    if not (source - source.mean()).any():
        raise ConfigError("source: expected a sound, found silence, of which SI-SDR says nothing; leave the row out")
    return source


def si_sdr_rows(samples: Sequence[Scored]) -> np.ndarray:
    """SI-SDR of each prediction, [N]."""
    sources = [source_of(sample.record) for sample in samples]
    pairs = zip(samples, sources, strict=True)
    return np.array([si_sdr(samples_of(each.prediction, "prediction", len(s)), s) for each, s in pairs], np.float64)


def gain_rows(samples: Sequence[Scored]) -> np.ndarray:
    """SI-SDRi of each prediction, [N]."""
    before = [si_sdr(*mixture_of(sample.record)) for sample in samples]
    return si_sdr_rows(samples) - np.array(before, np.float64)


def mixture_of(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What the model was given, and the true source."""
    source = source_of(record)
    return samples_of(given(record, "mixture"), "mixture", len(source)), source


SI_SDR = Metric(name="SI-SDR", rows=si_sdr_rows, asks=source_of)
SI_SDR_GAIN = Metric(name="SI-SDRi", rows=gain_rows, asks=mixture_of)
SEPARATION = (SI_SDR, SI_SDR_GAIN)
