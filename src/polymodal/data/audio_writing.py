"""Samples as the bytes of a sound file: wav and flac through libsndfile, mp3, opus and aac through PyAV, bare pcm."""

from __future__ import annotations

import io

import numpy as np

from polymodal.errors import ConfigError

_LOSSLESS = {"wav": "WAV", "flac": "FLAC"}
# name -> (encoder, container).  Not libsndfile's: its Opus (1.2.2) makes a steady tone three times as loud.
_LOSSY = {"mp3": ("libmp3lame", "mp3"), "opus": ("libopus", "ogg"), "aac": ("aac", "adts")}
SOUND_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac",
               "pcm": "audio/pcm"}  # fmt: skip


def writable() -> tuple[str, ...]:
    """The formats that can be written here: which encoders PyAV has depends on how it was built."""
    import av

    lossy = (name for name, (encoder, _) in _LOSSY.items() if encoder in av.codecs_available)
    return (*_LOSSLESS, *lossy, "pcm")


def pcm(samples: np.ndarray) -> bytes:
    """float [N] in [-1, 1] as signed 16-bit little-endian numbers."""
    return np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def encode_sound(samples: np.ndarray, rate: int, format: str) -> bytes:
    """float [N] in [-1, 1] at `rate` Hz, one channel.  Raises ConfigError for a format that cannot be written here."""
    if format not in writable():
        raise ConfigError(f"sound cannot be written as {format!r} here; {', '.join(writable())} can")
    if format == "pcm":
        return pcm(samples)
    numbers, file = np.frombuffer(pcm(samples), "<i2"), io.BytesIO()
    if format in _LOSSY:
        _encode(numbers, rate, *_LOSSY[format], file)
    else:
        import soundfile

        soundfile.write(file, numbers, rate, format=_LOSSLESS[format], subtype="PCM_16")
    return file.getvalue()


def _encode(numbers: np.ndarray, rate: int, encoder: str, container: str, file: io.BytesIO) -> None:
    import av

    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(encoder, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(numbers[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for each in (frame, None):
            output.mux(stream.encode(each))
