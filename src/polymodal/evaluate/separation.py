"""Separated sources by BSS Eval: SDR, SIR and SAR, in dB (Vincent et al. 2006; version 3, mono sources).

A row has `sources`, the samples of every true source of a mixture; a prediction is as many lists, in their order.
    An estimate is split into what a filter of 512 taps makes of its own source (target), what filters make of all
    sources beyond that (interference), and the rest (artefacts):
    SDR = target / (interference + artefacts), SIR = target / interference, SAR = (target + interference) / artefacts

As mir_eval.separation.bss_eval_sources(compute_permutation=False); a row is the mean over its sources.  SDR forgives
any filter that short, an echo or an equaliser: SI-SDR (`sounds.py`) forgives a gain alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, listed, vector

TAPS = 512


def sources_of(record: Mapping[str, Any]) -> np.ndarray:
    """float64 [sources, samples].  Raises ConfigError for a silent one, of which nothing can be said."""
    rows = [vector(one, "sources") for one in listed(given(record, "sources"), "sources", "samples of each source")]
    if len({len(row) for row in rows}) > 1:
        raise ConfigError(f"sources: expected as many samples in each, found {sorted({len(row) for row in rows})}")
    if not all(row.any() for row in rows):
        raise ConfigError("sources: expected sounds, found silence; leave the row out")
    return np.array(rows)


def projected(sources: np.ndarray, signal: np.ndarray, taps: int = TAPS) -> np.ndarray:
    """The nearest to a signal [samples] that filters make of the sources, [samples + taps - 1]."""
    count, length = sources.shape
    size = 1 << (length + taps - 1).bit_length()
    spectra, said = np.fft.rfft(sources, size), np.fft.rfft(signal, size)
    lags = np.arange(taps)[:, None] - np.arange(taps)
    table = np.empty((count, taps, count, taps))
    for i in range(count):
        for j in range(count):
            table[i, :, j] = np.fft.irfft(spectra[i].conj() * spectra[j], size)[lags % size]
    right = np.fft.irfft(spectra.conj() * said, size)[:, :taps].reshape(-1)
    square = table.reshape(count * taps, -1)
    try:
        filters = np.linalg.solve(square, right)
    except np.linalg.LinAlgError:
        filters = np.linalg.lstsq(square, right, rcond=None)[0]
    made = np.fft.irfft((np.fft.rfft(filters.reshape(count, taps), size) * spectra).sum(0), size)
    whole: np.ndarray = made[: length + taps - 1]
    return whole


def read_ratios(samples: Sequence[Scored], taps: int = TAPS) -> np.ndarray:
    """SDR, SIR and SAR of each row, [N, 3]."""
    rows = []
    for sample in samples:
        sources = sources_of(sample.record)
        said = listed(sample.prediction, "prediction", "samples of each source")
        estimates = [vector(one, "prediction") for one in said]
        if len(estimates) != len(sources) or {len(one) for one in estimates} != {sources.shape[1]}:
            raise ConfigError(f"prediction: expected {len(sources)} lists of {sources.shape[1]} samples")
        rows.append(np.mean([_ratios(sources, which, one, taps) for which, one in enumerate(estimates)], axis=0))
    return np.array(rows)


def _ratios(sources: np.ndarray, which: int, estimate: np.ndarray, taps: int) -> list[float]:
    target = projected(sources[which : which + 1], estimate, taps)
    both = projected(sources, estimate, taps)
    interference, artefacts = both - target, np.pad(estimate, (0, taps - 1)) - both
    return [_decibels(target, interference + artefacts), _decibels(target, interference), _decibels(both, artefacts)]


def _decibels(one: np.ndarray, other: np.ndarray) -> float:
    energy = other @ other
    return float(10 * np.log10((one @ one) / energy)) if energy else float("inf")


def _column(found: np.ndarray, column: int) -> np.ndarray:
    chosen: np.ndarray = found[:, column]
    return chosen


_metric = partial(Metric, read=read_ratios, asks=sources_of)
BSS_EVAL = tuple(_metric(name=name, rows=partial(_column, column=i)) for i, name in enumerate(("SDR", "SIR", "SAR")))
