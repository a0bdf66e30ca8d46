"""The length that the header of a WAV, AIFF, AU, Wave64 or CAF file claims, against what the file holds.

A program that writes to a pipe (ffmpeg, sox, arecord) or is killed cannot go back to fill in the length: it leaves 0,
all ones or something near 2 GiB there.  Such a recording goes on to the end of the file, and its header is corrected
on the way to the decoder.  A length that is plausible and not there means that the file was cut.

Traps: libsndfile reads a truncated file without complaint and takes a length of 0 for its word; RIFX is RIFF with
big-endian numbers; RF64 and BW64 keep the length in a chunk of their own; in AIFF it counts 8 bytes that are not sound.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, cast

from polymodal.data.source import OpenFile
from polymodal.errors import MediaError

_UNKNOWN_FROM = 0x7F000000  # lengths from here on that the file does not hold were never filled in
_MAX_CHUNKS = 1000
_WRITE_BUFFER = 4096  # bytes that may be missing at the end of a whole recording, if that is at most 1 % of it
_RIFF_CHUNKS = (
    b"LIST",
    b"fact",
    b"bext",
    b"JUNK",
    b"junk",
    b"PAD ",
    b"cue ",
    b"smpl",
    b"id3 ",
    b"ID3 ",
    b"_PMX",
    b"iXML",
)
Order = Literal["big", "little"]
_WAVE64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass(frozen=True)
class SoundSize:
    """start: where the sound begins.  claimed: its bytes by the header.

    field: where the header says so, size of the number in bytes, its byte order, and what it counts beside the sound.
    """

    start: int
    claimed: int
    field: tuple[int, int, Order, int]


def with_true_size(opened: OpenFile, format_name: str) -> OpenFile:
    """The file with its length corrected where the writer did not know it.

    Raises MediaError for a file that holds no sound or was cut short.
    """
    size = _find(opened, format_name)
    opened.file.seek(0)
    if size is None:
        return opened
    present = max(0, opened.size - size.start)
    if present == 0 or (size.claimed == 0 and format_name == "wav" and _chunk_follows(opened, size.start)):
        raise MediaError(f"{opened.name} holds no sound (0 samples)")
    if size.claimed == 0 or (size.claimed >= _UNKNOWN_FROM and size.claimed > present):
        place, width, order, beside = size.field
        largest = (1 << 8 * width - 1) - 1  # CAF counts with a sign
        number = min(present + beside, largest).to_bytes(width, order)
        return replace(opened, file=cast(BinaryIO, _Corrected(opened.file, place, number)))
    missing = size.claimed - present
    if missing > min(_WRITE_BUFFER, size.claimed // 100):
        raise MediaError(
            f"{opened.name} is cut short: its header claims {size.claimed:,} bytes of sound, found {present:,}"
        )
    return opened


def _find(opened: OpenFile, format_name: str) -> SoundSize | None:
    """None where the length does not matter, or the decoder must say what is wrong."""
    if format_name == "au":
        order: Order = "big" if opened.head[:1] == b"." else "little"
        start = int.from_bytes(opened.head[4:8], order)
        return SoundSize(start, int.from_bytes(opened.head[8:12], order), (8, 4, order, 0))
    if format_name == "wav":
        return _find_in_wav(opened)
    if format_name == "aiff":
        for place, kind, claimed in _chunks(opened, 12, (4, 4), "big"):
            if kind == b"SSND":
                return SoundSize(place + 16, max(0, claimed - 8), (place + 4, 4, "big", 8))
    if format_name == "caf":
        for place, kind, claimed in _chunks(opened, 8, (4, 8), "big"):
            if kind == b"data":  # 4 bytes of the chunk count its edits
                return SoundSize(place + 16, max(0, claimed - 4), (place + 4, 8, "big", 4))
    if format_name == "w64":
        for place, kind, claimed in _chunks(opened, 40, (16, 8), "little"):
            if kind == b"data" + _WAVE64_TAIL:
                return SoundSize(place + 24, max(0, claimed - 24), (place + 16, 8, "little", 24))
    return None


def _find_in_wav(opened: OpenFile) -> SoundSize:
    order: Order = "big" if opened.head[:4] == b"RIFX" else "little"
    long_size: tuple[int, int] | None = None
    for place, kind, claimed in _chunks(opened, 12, (4, 4), order):
        if kind == b"ds64" and opened.head[:4] in (b"RF64", b"BW64"):
            opened.file.seek(place + 16)
            long_size = place + 16, int.from_bytes(opened.file.read(8), "little")
        if kind == b"data":
            if long_size is not None:
                return SoundSize(place + 8, long_size[1], (long_size[0], 8, "little", 0))
            return SoundSize(place + 8, claimed, (place + 4, 4, order, 0))
    raise MediaError(f"{opened.name} is cut short: it has no data chunk")


def _chunks(opened: OpenFile, start: int, sizes: tuple[int, int], order: Order) -> Iterator[tuple[int, bytes, int]]:
    """(position, name, length) of each chunk; sizes: bytes of name and length."""
    file, width = opened.file, sum(sizes)
    for _ in range(_MAX_CHUNKS):
        if start >= opened.size:
            return
        file.seek(start)
        head = file.read(width)
        if len(head) < width:
            return
        length = int.from_bytes(head[sizes[0] :], order)
        yield start, head[: sizes[0]], length
        if sizes == (16, 8):  # Wave64 counts the header in, and aligns to 8 bytes
            start += max(width, length + -length % 8)
        else:
            start += width + length + (length % 2 if sizes == (4, 4) else 0)
    raise MediaError(f"{opened.name} is damaged: more than {_MAX_CHUNKS} chunks before its sound")


def _chunk_follows(opened: OpenFile, start: int) -> bool:
    """True when a RIFF chunk begins at `start`: a length of 0 was meant."""
    opened.file.seek(start)
    head = opened.file.read(4)
    opened.file.seek(0)
    return head in _RIFF_CHUNKS


class _Corrected(io.RawIOBase):
    """A file in which a few bytes read differently."""

    def __init__(self, file: BinaryIO, place: int, data: bytes) -> None:
        self._file, self._place, self._data = file, place, data

    def readinto(self, buffer) -> int:
        start = self._file.tell()
        view = memoryview(buffer).cast("B")
        found = self._file.read(len(view))
        view[: len(found)] = found
        first, last = max(start, self._place), min(start + len(found), self._place + len(self._data))
        if first < last:
            view[first - start : last - start] = self._data[first - self._place : last - self._place]
        return len(found)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
