"""Kokoro-82M, which speaks: symbols of sounds and a voice -> samples at 24 kHz, through onnxruntime.

    ids [1, T], style [1, 256] of the voice for that length, speed -> waveform [1, samples]

StyleTTS 2 (arXiv:2306.07691) with an iSTFTNet vocoder; https://huggingface.co/hexgrad/Kokoro-82M.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polymodal.errors import ConfigError, WeightsError
from polymodal.pipelines.speaking.phonemes import CONTEXT, SYMBOLS

RATE = 24_000
WIDTH = 256
SPEEDS = (0.25, 4.0)


class Session(Protocol):
    """An onnxruntime.InferenceSession of the published model."""

    def run(self, output_names: Any, inputs: dict[str, np.ndarray]) -> Sequence[np.ndarray]: ...


def open_session(path: Path, threads: int) -> Session:
    """The published model, on the CPU.  Raises ConfigError without onnxruntime, WeightsError for a damaged file."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("speaking needs the package onnxruntime: pip install 'polymodal[say]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # its errors share no class of their own
        raise WeightsError(f"{path}: onnxruntime cannot read it: {problem}") from problem


def read_voice(path: Path) -> np.ndarray:
    """A voice: float32 [510, 1, 256], a style for each number of symbols.  Raises WeightsError."""
    values = np.fromfile(path, dtype="<f4")
    if values.size != CONTEXT * WIDTH or not np.isfinite(values).all():
        raise WeightsError(f"{path}: expected {CONTEXT} x {WIDTH} numbers of a voice, found {values.size}")
    return values.reshape(CONTEXT, 1, WIDTH)


def samples(session: Session, symbols: str, voice: np.ndarray, speed: float) -> np.ndarray:
    """float32 [N] in [-1, 1].  Raises ConfigError for more than CONTEXT symbols, and for a speed out of SPEEDS."""
    if not 1 <= len(symbols) <= CONTEXT:
        raise ConfigError(f"expected 1 to {CONTEXT} symbols, found {len(symbols)}")
    check_speed(speed)
    ids = np.array([[0, *(SYMBOLS[symbol] for symbol in symbols), 0]], dtype=np.int64)
    inputs = {"input_ids": ids, "style": voice[len(symbols) - 1], "speed": np.array([speed], dtype=np.float32)}
    return np.clip(session.run(None, inputs)[0].reshape(-1).astype(np.float32), -1.0, 1.0)


def check_speed(speed: float) -> None:
    """Raises ConfigError."""
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise ConfigError(f"speed: expected {SPEEDS[0]:g} to {SPEEDS[1]:g} (1: as published), found {speed:g}")
