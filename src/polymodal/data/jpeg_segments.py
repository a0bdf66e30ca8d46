"""What a JPEG holds besides its size: passes over its pixels, and bytes of thumbnails, profiles and texts.

    SOI, segments of a stated length (APPn, tables), SOS + coded data, [tables, SOS + coded data ...], EOI

A progressive picture refines its pixels scan by scan, and each scan costs a pass over all of them, however few bytes it
has: 20 kB of scans can cost minutes.  Pillow joins the pieces of Exif data one by one, in time that grows with the
square of their number.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from polymodal.data.limits import Limits, how_to_raise
from polymodal.data.source import OpenFile, megabytes
from polymodal.errors import MediaError

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed 0, a restart nor a filling byte
_BLOCK = 1 << 20
_LEAST = 256  # bytes that a segment counts as, however short
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01


def check_jpeg(opened: OpenFile, limits: Limits) -> None:
    """Raises MediaError for more than `Limits.scans` scans or `Limits.metadata` bytes beside the pixels."""
    scans = metadata = 0
    for marker, length in _segments(opened.file):
        if marker == _SOS:
            scans += 1
        else:
            metadata += max(length, _LEAST)
        if scans > limits.scans:
            raise MediaError(
                f"{opened.name} is a JPEG of more than {limits.scans} scans, the limit "
                f"({how_to_raise('scans', 2 * scans)})"
            )
        if metadata > limits.metadata:
            raise MediaError(
                f"{opened.name} has more than {megabytes(limits.metadata)} of metadata, the limit "
                f"({how_to_raise('metadata', max(metadata, opened.size))})"
            )
    opened.file.seek(0)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(marker, length) of each segment up to the end of the picture."""
    start = 2
    while (found := _next_marker(file, start)) is not None:
        place, marker = found
        if marker == _EOI:
            return
        start = place + 2
        if marker not in (_SOI, _TEM):
            file.seek(start)
            length = int.from_bytes(file.read(2), "big")
            yield marker, length
            start += length


def _next_marker(file: BinaryIO, start: int) -> tuple[int, int] | None:
    """(position, marker) of the first one from `start` on; a segment most often begins where the last one ended."""
    size = 16
    while True:
        file.seek(start)
        block = file.read(size)
        if found := _MARKER.search(block):
            return start + found.start(), block[found.start() + 1]
        if len(block) < size:
            return None
        start, size = start + size - 1, _BLOCK
