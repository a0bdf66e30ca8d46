"""Reading recordings: formats, rates, bounds, damage; the resampler against sines and scipy."""

import io
import struct
import tempfile
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.audio import read_audio
from polymodal.data.limits import Limits
from polymodal.data.resample import Resampler, resample
from polymodal.errors import MediaError


def sine(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, format_name: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format_name, subtype=subtype)
    return buffer.getvalue()


def aac_in_mp4(samples: np.ndarray, rate: int) -> bytes:
    # faststart puts the index first and needs a real file, because FFmpeg opens it a second time.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        write_aac(str(path), samples, rate)
        return path.read_bytes()


def write_aac(path: str, samples: np.ndarray, rate: int) -> None:
    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def snr(found: np.ndarray, expected: np.ndarray) -> float:
    return 10 * np.log10(np.mean(expected**2) / np.mean((found - expected) ** 2))


@pytest.mark.parametrize("format_name", ["WAV", "FLAC", "AIFF"])
def test_lossless_formats_give_the_samples(format_name):
    samples = sine(440, 16_000)
    read = read_audio(encoded(samples, 16_000, format_name, "PCM_16"), 16_000)
    assert read.dtype == np.float32 and read.shape == samples.shape
    assert np.abs(read - samples).max() <= 1 / 32768


def test_float_wav_is_bit_exact_at_equal_rates():
    samples = sine(440, 16_000)
    assert np.array_equal(read_audio(encoded(samples, 16_000, "WAV", "FLOAT"), 16_000), samples)


@pytest.mark.parametrize("format_name", ["OGG", "MP3"])
def test_lossy_formats(format_name):
    samples = sine(440, 16_000, 2.0)
    read = read_audio(encoded(samples, 16_000, format_name), 16_000)
    assert abs(len(read) - len(samples)) <= 1152 * 2
    assert snr(read[4000:20_000], samples[4000:20_000]) > 15


def test_m4a_goes_through_pyav():
    samples = sine(440, 44_100, 2.0)
    read = read_audio(aac_in_mp4(samples, 44_100), 16_000)
    expected = sine(440, 16_000, 2.0)
    assert abs(len(read) - len(expected)) <= 2048
    spectrum = np.abs(np.fft.rfft(read[8000:16_000] * np.hanning(8000)))
    assert abs(np.argmax(spectrum) * 2 - 440) <= 2


def test_channels_are_averaged():
    left, right = sine(440, 8000), sine(700, 8000)
    read = read_audio(encoded(np.stack([left, right], 1), 8000, "WAV", "FLOAT"), 8000)
    assert np.abs(read - (left + right) / 2).max() <= 1e-7
    assert np.array_equal(read_audio((np.stack([left, right]), 8000), 8000), read)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.int16, -(2**15), 2**15 - 1), (np.int32, -(2**31), 2**31 - 1), (np.uint8, 0, 255)],
)
def test_integer_arrays_are_scaled(dtype, low, high):
    read = read_audio((np.array([low, high], dtype=dtype), 8000), 8000)
    assert read[0] == -1.0 and 0.99 < read[1] <= 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(bad):
    samples = sine(440, 8000)
    samples[77] = bad
    with pytest.raises(MediaError, match="not finite"):
        read_audio(encoded(samples, 8000, "WAV", "FLOAT"), 16_000)
    with pytest.raises(MediaError, match="not finite"):
        read_audio((samples, 8000), 8000)


def test_truncated_wav_names_both_sizes(tmp_path):
    path = tmp_path / "talk.wav"
    data = encoded(sine(440, 16_000), 16_000, "WAV", "PCM_16")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        MediaError, match=r"talk.wav is cut short: its header claims 32,000 bytes of sound, found 15,978"
    ):
        read_audio(path, 16_000)


def test_wav_of_a_pipe_with_unknown_size_is_read():
    data = bytearray(encoded(sine(440, 8000), 8000, "WAV", "PCM_16"))
    place = data.index(b"data")
    data[place + 4 : place + 8] = b"\xff\xff\xff\xff"
    assert len(read_audio(bytes(data), 8000)) == 8000


def test_truncated_flac_is_refused():
    data = encoded(np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32), 16_000, "FLAC")
    with pytest.raises(MediaError, match="cut short"):
        read_audio(data[: len(data) // 2], 16_000)


def test_truncated_m4a_is_refused():
    data = aac_in_mp4(np.random.default_rng(0).uniform(-0.5, 0.5, 441_000).astype(np.float32), 44_100)
    with pytest.raises(MediaError, match="cut short"):
        read_audio(data[: len(data) // 2], 16_000)


def test_duration_is_checked_from_the_header_and_while_decoding():
    limits = Limits(seconds=1.0)
    for data in (encoded(sine(440, 8000, 1.5), 8000), aac_in_mp4(sine(440, 8000, 3.0), 8000)):
        with pytest.raises(MediaError, match=r"s long, the limit is 1 s"):
            read_audio(data, 8000, limits)
    # A FLAC header may leave the length open (0); then only counting helps.
    data = bytearray(encoded(sine(440, 8000, 3.0), 8000, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = b"\0\0\0\0"
    with pytest.raises(MediaError, match=r"limit"):
        read_audio(bytes(data), 8000, limits)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "empty"),
        (b"hello, this is a text", "plain text"),
        (b"\x00\x01\x02\x03" * 10, "unknown format"),
        ("http://example.com/a.wav", "URL"),
        ("rtsp://example.com/a", "URL"),
        ("concat:a.wav|b.wav", "URL"),
        ("file:/etc/passwd", "URL"),
        ("/nowhere/at/all.wav", "no file"),
        ("/", "folder"),
        ("/dev/zero", "is a pipe, socket or device, expected a media file"),
        ("a\0b", "cannot be opened"),
        (b"RIFF\x24\0\0\0WAVE", "no data chunk"),
        (encoded(np.zeros(0, dtype=np.float32), 8000), "no sound"),
        ((np.zeros(0, dtype=np.float32), 8000), "no sound"),
        ((np.zeros((8000, 2), dtype=np.float32), 8000), "shape"),
        ((np.zeros(10, dtype=np.complex64), 8000), "complex64"),
        ((np.zeros(10, dtype=np.float32), 0), "sampling rate"),
    ],
)
def test_refusals(source, message):
    with pytest.raises(MediaError, match=message) as caught:
        read_audio(source, 16_000)
    assert "0x" not in str(caught.value) and "\n" not in str(caught.value)


def test_header_with_absurd_channels_and_rate():
    header = b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 900, 4_000_000, 0, 1800, 16)
    with pytest.raises(MediaError):
        read_audio(header + b"data" + struct.pack("<I", 4) + b"\0\0\0\0", 16_000)


@pytest.mark.parametrize("format_name", ["WAV", "FLAC", "OGG", "MP3"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mutated_files_give_sound_or_media_error(format_name, data):
    original = CORPUS[format_name]
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, min(len(mutated) - 1, 200)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    try:
        samples = read_audio(bytes(mutated[:cut]), 8000, Limits(seconds=60))
    except MediaError as error:
        assert "0x" not in str(error)
    else:
        assert samples.dtype == np.float32 and np.isfinite(samples).all() and len(samples)


CORPUS = {name: encoded(sine(300, 8000, 0.2), 8000, name) for name in ("WAV", "FLAC", "OGG", "MP3")}


# ---- resampler


@pytest.mark.parametrize(("old", "new"), [(44_100, 16_000), (48_000, 16_000), (8000, 16_000), (22_050, 16_000)])
@pytest.mark.parametrize("hertz", [100.0, 997.0, 3500.0])
def test_a_sine_stays_a_sine(old, new, hertz):
    """Signal to noise at least 115 dB away from the edges (float32 rounding alone gives about 140)."""
    found, expected = resample(sine(hertz, old), old, new), sine(hertz, new)
    assert len(found) == len(expected)
    assert snr(found[new // 10 : -new // 10], expected[new // 10 : -new // 10]) >= 115


def test_pass_band_and_stop_band():
    middle = slice(4000, 12_000)
    for hertz, at_least, at_most in [(7250.0, -0.01, 0.01), (8010.0, -999, -115), (12_000.0, -999, -115)]:
        out = resample(sine(hertz, 44_100), 44_100, 16_000)[middle]
        gain = 20 * np.log10(np.sqrt(2 * np.mean(out.astype(np.float64) ** 2)) / 0.5 + 1e-12)
        assert at_least <= gain <= at_most, (hertz, gain)


def test_close_to_scipy_in_the_common_pass_band():
    signal = pytest.importorskip("scipy.signal")
    random = np.random.default_rng(3)
    spectrum = np.zeros(22_051, dtype=complex)
    spectrum[50:5000] = random.standard_normal(4950) + 1j * random.standard_normal(4950)
    wave = np.fft.irfft(spectrum, 44_100)
    wave = (wave / np.abs(wave).max()).astype(np.float32)
    oracle = signal.resample_poly(wave.astype(np.float64), 160, 441, window=("kaiser", 12.0))
    assert snr(resample(wave, 44_100, 16_000)[1000:-1000], oracle[1000:-1000]) > 40


def test_odd_rates_work_and_absurd_ones_are_refused():
    assert snr(resample(sine(440, 44_101), 44_101, 16_000)[2000:-2000], sine(440, 16_000)[2000:-2000]) >= 115
    with pytest.raises(MediaError, match="common rate"):
        resample(sine(440, 8000), 767_999, 16_000)
    with pytest.raises(MediaError, match="positive"):
        resample(sine(440, 8000), 8000, 0)


def test_equal_rates_return_the_same_samples():
    samples = sine(440, 8000)
    assert resample(samples, 8000, 8000) is samples


def test_constant_keeps_its_level():
    out = resample(np.full(8000, 0.25, dtype=np.float32), 8000, 11_025)
    assert np.abs(out[500:-500] - 0.25).max() <= 1e-6


@settings(max_examples=60, deadline=None)
@given(
    old=st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 44_056]),
    new=st.sampled_from([8000, 16_000, 24_000, 22_050]),
    cuts=st.lists(st.integers(0, 3000), min_size=0, max_size=5),
    length=st.integers(1, 3000),
)
def test_blocks_join_without_seams(old, new, cuts, length):
    samples = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    stream = Resampler(old, new)
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    pieces = [stream.push(samples[a:b]) for a, b in pairwise(edges)]
    joined = np.concatenate([*pieces, stream.finish()])
    whole = resample(samples, old, new)
    assert len(joined) == len(whole) == -(-length * new // old)
    assert np.abs(joined - whole).max() <= 1e-5
