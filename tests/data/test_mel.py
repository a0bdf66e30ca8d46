"""Log-mel against transformers' WhisperFeatureExtractor and the written definition, to 1e-4 in float32."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.mel import MelConfig, hz_to_mel, log_mel, mel_filters, mel_to_hz, pad_or_trim
from polymodal.errors import ConfigError, MediaError

TOLERANCE = 1e-4


def noisy_speech_like(seconds: float, rate: int = 16_000) -> np.ndarray:
    random = np.random.default_rng(int(seconds * 1000))
    time = np.arange(round(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (80 * time + 900 * time**2 / max(seconds, 1)))
    return (0.3 * sweep * np.sin(2 * np.pi * 2 * time) ** 2 + 0.02 * random.standard_normal(len(time))).astype(
        np.float32
    )


def whisper_formula(audio: np.ndarray, filters: torch.Tensor) -> torch.Tensor:
    """The definition, step by step: DFT by matrix product in float64, no torch.stft."""
    padded = np.pad(audio.astype(np.float64), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    angles = 2 * np.pi * np.outer(np.arange(201), np.arange(400)) / 400
    windowed = frames * hann
    power = (windowed @ np.cos(angles).T) ** 2 + (windowed @ np.sin(angles).T) ** 2
    logs = np.log10(np.maximum(power @ filters.double().numpy().T, 1e-10)).T
    return torch.from_numpy((np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).float()


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.05, 3.21, 30.0])
def test_equals_whisper_feature_extractor(mels, seconds):
    from transformers import WhisperFeatureExtractor

    audio = noisy_speech_like(seconds)
    oracle = WhisperFeatureExtractor(feature_size=mels)(audio, sampling_rate=16_000, return_tensors="pt")
    ours = log_mel(audio, MelConfig(mels=mels))
    assert ours.shape == (mels, 3000) and ours.dtype == torch.float32
    assert (ours - oracle.input_features[0]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("mels", [80, 128])
def test_equals_the_definition(mels):
    audio = noisy_speech_like(4.0)
    config = MelConfig(mels=mels, seconds=None)
    assert (log_mel(audio, config) - whisper_formula(audio, mel_filters(config))).abs().max() <= TOLERANCE


@pytest.mark.parametrize("mels", [80, 128])
def test_filters_equal_transformers(mels):
    from transformers.audio_utils import mel_filter_bank

    oracle = mel_filter_bank(201, mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    ours = mel_filters(MelConfig(mels=mels))
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - oracle.T).max() <= 1e-7


def test_other_rates_and_ranges_equal_transformers():
    from transformers.audio_utils import mel_filter_bank

    config = MelConfig(mels=64, rate=22_050, window=1024, hop=256, low=50.0, high=11_025.0)
    oracle = mel_filter_bank(513, 64, 50.0, 11_025.0, 22_050, norm="slaney", mel_scale="slaney")
    assert np.abs(mel_filters(config).numpy() - oracle.T).max() <= 1e-7


def test_silence_is_finite_and_constant():
    mel = log_mel(np.zeros(16_000, dtype=np.float32))
    assert torch.isfinite(mel).all() and mel.min() == mel.max()


def test_batch_equals_single():
    waves = np.stack([noisy_speech_like(2.0), 0.01 * noisy_speech_like(2.0)])
    config = MelConfig(seconds=None)
    both = log_mel(waves, config)
    for wave, mel in zip(waves, both, strict=True):
        assert (log_mel(wave, config) - mel).abs().max() <= 1e-6


def test_too_long_too_short_and_wrong_shape_are_refused():
    with pytest.raises(MediaError, match=r"longer than the window of 30 s"):
        log_mel(np.zeros(480_001, dtype=np.float32))
    with pytest.raises(MediaError, match="shorter than half a window"):
        log_mel(np.zeros(200, dtype=np.float32), MelConfig(seconds=None))
    with pytest.raises(MediaError, match="expects mono"):
        log_mel(np.zeros((1, 1, 400), dtype=np.float32))
    with pytest.raises(ConfigError):
        MelConfig(rate=8000)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 24_000.0))
def test_mel_scale_round_trip(hz):
    assert abs(mel_to_hz(hz_to_mel(np.array([hz])))[0] - hz) <= 1e-6 * max(1.0, hz)


@settings(max_examples=25, deadline=None)
@given(st.integers(201, 5000))
def test_frame_count(samples):
    config = MelConfig(seconds=None)
    mel = log_mel(np.zeros(samples, dtype=np.float32), config)
    assert mel.shape == (80, config.frames(samples)) == (80, samples // 160)


def test_pad_or_trim():
    wave = torch.arange(5.0)
    assert pad_or_trim(wave, 3).tolist() == [0, 1, 2] and pad_or_trim(wave, 7).tolist() == [
        0,
        1,
        2,
        3,
        4,
        0,
        0,
    ]
