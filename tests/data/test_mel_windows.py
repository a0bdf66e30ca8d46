"""The log-mel of a recording window by window: equal to that of the whole, read block by block."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from polymodal.data.audio import read_audio, stream_audio
from polymodal.data.kept import DECODED
from polymodal.data.limits import Limits
from polymodal.data.media import Audio
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.mel_windows import MelWindows
from polymodal.errors import MediaError

RATE = 16_000
WHOLE = MelConfig(seconds=None)


def noise(seconds: float) -> np.ndarray:
    """Noise that swells and fades, so that the loudest frame lies in the middle."""
    count = round(seconds * RATE)
    wave = np.random.default_rng(0).normal(0, 0.1, count) * np.sin(np.pi * np.arange(count) / count) ** 4
    return wave.astype(np.float32)


@pytest.mark.parametrize("seconds", [0.005, 0.0126, 0.3, 1.0, 9.7654])
@pytest.mark.parametrize("size", [97, 4096, 1 << 20])
def test_windows_equal_the_log_mel_of_the_whole(seconds, size):
    wave = noise(seconds)
    windows = MelWindows(lambda: (wave[i : i + size] for i in range(0, len(wave), size)), WHOLE)
    expected = log_mel(np.concatenate((wave, np.zeros(RATE, np.float32))), WHOLE)[:, : len(wave) // 160]
    assert windows.samples == len(wave) and windows.frames == len(wave) // 160
    for seek in [*range(0, windows.frames, 70), 0]:  # the last goes back
        found = windows.window(seek, 100)
        torch.testing.assert_close(found, expected[:, seek : seek + 100], atol=1e-5, rtol=0)


def test_a_long_recording_is_read_no_further_than_its_window():
    read = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        read = 0
        for _ in range(600):
            read += RATE
            yield np.full(RATE, 0.1, np.float32)

    windows = MelWindows(blocks, WHOLE)
    for seek in range(0, 9000, 3000):
        assert windows.window(seek, 3000).shape == (80, 3000)
        assert read <= (seek + 3000) * 160 + 3 * RATE


def test_blocks_of_a_recording_join_to_its_samples():
    wave = noise(2.0)
    for rate in (8000, RATE, 22_050):
        joined = np.concatenate(list(stream_audio((wave, RATE), rate)))
        assert np.array_equal(joined, read_audio((wave, RATE), rate))
    record = Audio((wave, RATE))
    assert np.array_equal(np.concatenate(list(record.blocks(RATE))), record.samples(RATE))


def test_long_recordings_are_hashed_and_streamed_without_being_held():
    limits = Limits(samples=15 * 60 * 1000)
    long = Audio((np.zeros(20 * 60 * 1000, np.int16), 1000), limits)
    assert sum(map(len, long.blocks(1000))) == 20 * 60 * 1000
    assert DECODED.get(long, 1000) is None
    assert long.content_hash(1000) != Audio((np.zeros(20 * 60 * 1000 + 1, np.int16), 1000)).content_hash(1000)
    with pytest.raises(MediaError, match="over 900,000 samples at 1000 Hz, the limit of what is held at once"):
        long.samples(1000)
