"""Videos made with PyAV: each frame is one grey level that encodes its index, with a bright top left corner."""

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 10


def grey(index: int, width: int, height: int) -> np.ndarray:
    pixels = np.full((height, width, 3), 10 + STEP * (index % 23), dtype=np.uint8)
    pixels[: height // 4, : width // 4] = 255
    return pixels


def video(
    container: str = "mp4",
    codec: str = "libx264",
    stamps: list[int] | None = None,
    size: tuple[int, int] = (64, 48),
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video whose frames are shown at `stamps` (units of 1/100 s; by default 20 frames, 10 a second)."""
    stamps = stamps or list(range(0, 200, 10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video.{container}"
        faststart = {"movflags": "faststart"} if container == "mp4" else {}
        with av.open(str(path), "w", options=faststart) as output:
            stream = output.add_stream(codec, rate=10, options=options or {})
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
            stream.codec_context.gop_size = 5
            track = output.add_stream("aac", rate=16_000, layout="mono") if sound else None
            for index, stamp in enumerate(stamps):
                frame = av.VideoFrame.from_ndarray(grey(index, *size), format="rgb24")
                frame.pts, frame.time_base = stamp, Fraction(1, 100)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
            if track is not None:
                tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000, dtype=np.float32)
                for start in range(0, 32_000, 1000):
                    piece = av.AudioFrame.from_ndarray(tone[None, start : start + 1000], format="fltp", layout="mono")
                    piece.sample_rate, piece.pts = 16_000, start
                    output.mux(track.encode(piece))
                output.mux(track.encode(None))
        return path.read_bytes()
