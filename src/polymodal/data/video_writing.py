"""Frames, and a sound where there is one, as a file: .mp4 with H.264 and AAC, through PyAV.

Traps: H.264 wants even sides, so odd ones lose their last row or column; the file is as long as its longer track, and
the last frame stays until the sound ends.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polymodal.data.media import Audio
from polymodal.errors import ConfigError

SOUND_RATE = 44_100  # which every player of MP4 has
BLOCK = 1024  # samples of a frame of AAC


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video that a model made.  frames: uint8 [F, H, W, 3]; fps: how many a second; sound: beside it."""

    frames: np.ndarray
    fps: float
    sound: Audio | None = None

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or not self.fps > 0:
            raise ConfigError(f"video: expected frames uint8 [F, H, W, 3] and a rate above 0, found "
                              f"{self.frames.dtype} {list(shape)} at {self.fps}")  # fmt: skip

    @property
    def seconds(self) -> float:
        """Length of the pictures."""
        return len(self.frames) / self.fps

    def mp4(self) -> bytes:
        """The file.  Raises ConfigError where this machine has no encoder for it."""
        import av

        if missing := {"libx264", "aac"} - av.codecs_available:
            raise ConfigError(f"video cannot be written here: PyAV was built without {', '.join(sorted(missing))}")
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            _write(container, self)
        return file.getvalue()


def _write(container, film: Film) -> None:  # type: ignore[no-untyped-def]
    import av

    height, width = (side // 2 * 2 for side in film.frames.shape[1:3])
    if not height or not width:
        raise ConfigError(f"video: sides of 2 pixels at least are needed, found {film.frames.shape[2]} x "
                          f"{film.frames.shape[1]}")  # fmt: skip
    rate = Fraction(film.fps).limit_denominator(1000)
    pictures = container.add_stream("libx264", rate=rate)
    pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
    samples = np.zeros(0, np.float32) if film.sound is None else film.sound.samples(SOUND_RATE)
    sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono") if film.sound is not None else None
    count = max(len(film.frames), int(np.ceil(len(samples) / SOUND_RATE * film.fps)))
    for index in range(count):
        pixels = film.frames[min(index, len(film.frames) - 1), :height, :width]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        container.mux(pictures.encode(frame))
    container.mux(pictures.encode())
    if sound is None:
        return
    for start in range(0, len(samples), BLOCK):
        block = av.AudioFrame.from_ndarray(samples[None, start : start + BLOCK], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        container.mux(sound.encode(block))
    container.mux(sound.encode())
