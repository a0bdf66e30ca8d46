"""Media with some bytes wrong: every reader gives a result or one of our errors, in bounded time and memory.

A mutation knows where sizes and counts stand: behind and before the names of boxes, chunks and elements.  Those of a
PNG get a right checksum again, so that damage reaches its decoder.
"""

import io
import random
import re
import struct
import zlib
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from heif_writer import heic
from polymodal.data.limits import Limits
from polymodal.data.media import Audio, Image, Text, Video, guess_media

EXAMPLES = Path(__file__).parents[2] / "examples"
# Files of strangers as a server would take them: so that a mutated size is not worth seconds of honest work.
LIMITS = Limits(
    pixels=4_000_000, source_pixels=16_000_000, seconds=120, decoded_samples=20_000_000, decoded_pixels=1_000_000_000
)
PICTURES = ("jpg", "progressive", "png", "gif", "webp", "avif", "heic", "tiff", "bmp", "cat")
SOUNDS = ("wav", "flac", "mp3", "ogg", "opus", "aiff", "caf", "speech")
VIDEOS = ("mp4", "mkv", "webm", "avi")
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65537, 100_000_000)
NAMES = re.compile(rb"[A-Za-z][A-Za-z0-9 ]{3}|\xff[\xc0-\xfe]|[\x10-\x1f][\x40-\xff]{3}|OggS|\x00\x00\x01[\x00-\xff]")


def pixels(height: int = 48, width: int = 64) -> np.ndarray:
    ramp = np.arange(height * width * 3, dtype=np.uint32)
    return (ramp * 7 % 251).astype(np.uint8).reshape(height, width, 3)


@cache
def sample(name: str) -> bytes:
    """A small file of each format."""
    buffer = io.BytesIO()
    picture = Pillow.fromarray(pixels())
    if name in ("cat", "speech"):
        return next(EXAMPLES.glob(f"{name}.*")).read_bytes()
    if name == "heic":
        return heic([pixels(32, 32)] * 4, (2, 2), (64, 48), turned=[(b"irot", b"\1")])
    if name == "progressive":
        picture.save(buffer, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    elif name in PICTURES:
        kind = {"jpg": "JPEG"}.get(name, name.upper())
        extra = {"save_all": True, "append_images": [picture] * 2} if name in ("gif", "png", "webp") else {}
        extra |= {"compression": "tiff_lzw"} if name == "tiff" else {}
        picture.save(buffer, kind, **extra)
    elif name in SOUNDS:
        kind, subtype = ("OGG", "OPUS") if name == "opus" else (name.upper(), None)
        soundfile.write(buffer, np.sin(np.arange(12_000)[:, None] / [9, 14]), 24_000, format=kind, subtype=subtype)
    else:
        _write_video(buffer, name)
    return buffer.getvalue()


def _write_video(buffer: io.BytesIO, name: str) -> None:
    codecs = {"mp4": ("libx264", "aac"), "mkv": ("libx264", "mp3"), "webm": ("libvpx-vp9", "libopus")}
    codec, sound = codecs.get(name, ("mpeg4", "mp3"))
    with av.open(buffer, "w", format={"mkv": "matroska"}.get(name, name)) as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 64, 48, "yuv420p", 4
        track = output.add_stream(sound, rate=48_000, layout="mono")
        for index in range(12):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(pixels(), index * 5, 1), format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 24_000), np.int16), format="s16", layout="mono")
        silence.rate = 48_000
        for each in (stream.encode(None), track.encode(silence), track.encode(None)):
            output.mux(each)


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """`data` after one to six changes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        change = rng.choice((flip, flip, number, number, number_at_name, number_at_name, remove, repeat, cut, graft))
        change(found, other, rng)
        if not found:
            return data[:1]
    if data[:4] == b"\x89PNG" and rng.random() < 0.8:
        _mend_png(found)
    return bytes(found)


def place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, but more often where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 512, 4096, len(data)))))


def flip(data: bytearray, other: bytes, rng: random.Random) -> None:
    data[place(data, rng)] ^= 1 << rng.randrange(8)


def number(data: bytearray, other: bytes, rng: random.Random) -> None:
    _write_number(data, place(data, rng), rng)


def number_at_name(data: bytearray, other: bytes, rng: random.Random) -> None:
    """A size, count or version beside the name of a box."""
    names = [match.start() for match in NAMES.finditer(data, 0, 8192)]
    start = rng.choice(names) if names else place(data, rng)
    _write_number(data, max(0, start + rng.choice((-4, 2, 4, 8, 12, 16, 20))), rng)


def remove(data: bytearray, other: bytes, rng: random.Random) -> None:
    start = place(data, rng)
    del data[start : start + rng.choice((1, 4, 8, 100, 1000))]


def repeat(data: bytearray, other: bytes, rng: random.Random) -> None:
    start, size = place(data, rng), rng.choice((4, 12, 100, 1000))
    data[start:start] = data[start : start + size] * rng.choice((1, 2, 50))


def cut(data: bytearray, other: bytes, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def graft(data: bytearray, other: bytes, rng: random.Random) -> None:
    """A piece of another file."""
    start, size = rng.randrange(len(other)), rng.choice((8, 64, 512))
    data[place(data, rng) :] = other[start : start + size] + data[place(data, rng) :]


def _write_number(data: bytearray, start: int, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
    end = min(len(data), start + width)
    data[start:end] = value.to_bytes(width, rng.choice(("big", "little")))[: max(0, end - start)]


def _mend_png(data: bytearray) -> None:
    start = 8
    while start + 12 <= len(data):
        end = start + 8 + struct.unpack_from(">I", data, start)[0]
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(data[start + 4 : end])))
        start = end + 4


def use(data: bytes) -> None:
    """All that can be asked of a file."""
    media = guess_media(data, LIMITS)
    if isinstance(media, Image):
        assert media.picture.mode == "RGB" and media.picture.width * media.picture.height <= LIMITS.pixels
    elif isinstance(media, Audio):
        assert all(np.isfinite(block).all() for block in media.blocks(16_000))
    elif isinstance(media, Video):
        assert media.clip(frames=3).frames.shape[0] == 3
        sound = media.sound
        if sound is not None:
            assert sound.samples(16_000).ndim == 1
    else:
        assert isinstance(media, Text) or media.values is not None


@pytest.mark.parametrize("name", PICTURES + SOUNDS + VIDEOS)
def test_whole_samples_are_read(name):
    use(sample(name))


@pytest.mark.parametrize(
    ("names", "count"), [(PICTURES, 300), (SOUNDS, 120), (VIDEOS, 60)], ids=["pictures", "sounds", "videos"]
)
def test_mutated_media_are_read_or_refused(attack, capfd, names, count):
    for index, rng in attack.inputs(count):
        name = names[index % len(names)]
        data = mutated(sample(name), sample(rng.choice(names)), rng)
        with attack.one(f"{name} {index}", seconds=20, megabytes=500):
            use(data)
    out, err = capfd.readouterr()
    assert out == "" and err == "", f"printed by a decoder: {(out + err)[:1000]!r}"
