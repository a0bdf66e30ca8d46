"""How many samples the tables of an MP4 or MOV file claim, before FFmpeg makes an index of them.

    moov(trak(mdia(hdlr, minf(stbl(stsz, stts, ctts))), edts(elst)))   moof(traf(trun))

One entry of 12 bytes may stand for 4 billion samples of one size and duration, and FFmpeg's index takes about 40 bytes
for each; an edit list may show all of them again and again.
Trap: raw sound counts every single value as a sample, of duration 1; FFmpeg indexes its chunks of 1024.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from polymodal.data.limits import Limits, how_to_raise
from polymodal.data.source import OpenFile, megabytes
from polymodal.errors import MediaError

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"cmov")
_MAX_BOXES = 1_000_000  # a day of fragments of a second has half of that
_MAX_DEPTH = 8
_FREE_EDITS = 16  # edits of a track that are not multiplied
_PER_CHUNK = 1024  # values of raw sound in one entry of the index


def check_mp4(opened: OpenFile, limits: Limits) -> None:
    """Raises MediaError for tables of more than `Limits.pieces` samples in all tracks together."""
    total, track = 0, _Track()
    for file, kind, start, size in _all_boxes(opened, limits):
        if kind == b"trak":
            total += track.entries()
            track = _Track()
        elif kind == b"trun":
            total += _number(file, start + 4)
        else:
            track.read(file, kind, start, size)
        _check(opened, total, limits)
    _check(opened, total + track.entries(), limits)
    opened.file.seek(0)


class _Track:
    """What the tables of one track claim."""

    def __init__(self) -> None:
        self.samples = 0
        self.edits = 0
        self.is_sound = False
        self.raw = False

    def read(self, file: BinaryIO, kind: bytes, start: int, size: int) -> None:
        if kind == b"hdlr":
            file.seek(start + 8)
            self.is_sound = file.read(4) == b"soun"
        elif kind in (b"stsz", b"stz2"):
            self.samples = max(self.samples, _number(file, start + 8))
        elif kind == b"elst":
            self.edits = _number(file, start + 4)
        elif kind in (b"stts", b"ctts"):
            count = min(_number(file, start + 4), max(0, size - 8) // 8)
            table = file.read(8 * count)
            if kind == b"stts":
                self.raw = count == 1 and table[4:8] == b"\0\0\0\1"
            rows = range(0, len(table), 8)
            self.samples = max(self.samples, sum(int.from_bytes(table[at : at + 4], "big") for at in rows))

    def entries(self) -> int:
        """Entries of the index that FFmpeg would make."""
        samples = self.samples // _PER_CHUNK if self.raw and self.is_sound else self.samples
        return samples * max(1, self.edits // _FREE_EDITS)


def _check(opened: OpenFile, total: int, limits: Limits) -> None:
    if total > limits.pieces:
        raise MediaError(
            f"{opened.name} claims {total:,} samples in its tables, the limit is {limits.pieces:,} "
            f"({how_to_raise('pieces', total)})"
        )


def _number(file: BinaryIO, place: int) -> int:
    file.seek(place)
    return int.from_bytes(file.read(4), "big")


def _all_boxes(opened: OpenFile, limits: Limits) -> Iterator[tuple[BinaryIO, bytes, int, int]]:
    """(file, type, start of the body, its size) of every box, also of those in a compressed header (old QuickTime)."""
    for kind, start, size in _boxes(opened.file, opened.size):
        yield opened.file, kind, start, size
        if kind == b"cmvd":
            opened.file.seek(start + 4)
            try:
                header = zlib.decompressobj().decompress(opened.file.read(size - 4), limits.metadata + 1)
            except zlib.error:
                continue
            if len(header) > limits.metadata:
                raise MediaError(
                    f"{opened.name}: its compressed header has more than {megabytes(limits.metadata)}, the limit "
                    f"({how_to_raise('metadata', 2 * limits.metadata)})"
                )
            unpacked = io.BytesIO(header)
            yield from ((unpacked, *box) for box in _boxes(unpacked, len(header)))


def _boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start of the body, its size) of every box, those inside `_CONTAINERS` behind their parent."""
    ends, start, count = [end], 0, 0
    while ends and count < _MAX_BOXES:
        if start + 8 > ends[-1]:
            start = ends.pop()
            continue
        file.seek(start)
        head = file.read(16)
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        size = size or ends[-1] - start
        if size < header:  # damage, for the decoder to find
            start = ends.pop()
            continue
        stop = min(start + size, ends[-1])
        count += 1
        yield head[4:8], start + header, stop - start - header
        if head[4:8] in _CONTAINERS and len(ends) < _MAX_DEPTH:
            ends.append(stop)
            start += header
        else:
            start = stop
