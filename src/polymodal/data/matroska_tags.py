"""How many bytes of tags a Matroska or WebM file has: FFmpeg's time for them grows with the square of their number.

EBML header, Segment(SeekHead, Info, Tracks, Tags, Chapters, Attachments, Cluster ...); element: id, size, body
"""

from __future__ import annotations

from typing import BinaryIO

from polymodal.data.limits import Limits, how_to_raise
from polymodal.data.source import OpenFile, megabytes
from polymodal.errors import MediaError

_SEGMENT = b"\x18\x53\x80\x67"
_NAMES = (b"\x12\x54\xc3\x67", b"\x10\x43\xa7\x70")  # Tags and Chapters
_SHARE = 32  # tags may have this part of `Limits.metadata`, one MiB: those of real files have some kB


def check_tags(opened: OpenFile, limits: Limits) -> None:
    """Raises MediaError for more tags than a share of `Limits.metadata`, or `Limits.pieces` elements."""
    file, start, tags, elements = opened.file, 0, 0, 0
    most = limits.metadata // _SHARE
    while start < opened.size and (element := _element(file, start)) is not None:
        name, body, size = element
        # Inside the segment its children follow; one of unknown size (a live stream) goes on to the end.
        start = body if name == _SEGMENT or size is None else body + size
        tags += (size or 0) if name in _NAMES else 0
        elements += 1
        if tags > most:
            raise MediaError(
                f"{opened.name} has more than {megabytes(most)} of tags, the limit "
                f"({how_to_raise('metadata', 2 * _SHARE * tags)})"
            )
        if elements > limits.pieces:
            raise MediaError(
                f"{opened.name} has more than {limits.pieces:,} elements, the limit "
                f"({how_to_raise('pieces', 2 * elements)})"
            )
    file.seek(0)


def _element(file: BinaryIO, start: int) -> tuple[bytes, int, int | None] | None:
    """(id, start of the body, its size or None for an unknown one); None where no element begins."""
    file.seek(start)
    head = file.read(12)
    if not head or not head[0]:
        return None
    width = 9 - head[0].bit_length()
    length = head[width : width + 1]
    if width > 4 or not length or not length[0]:
        return None
    digits = 9 - length[0].bit_length()
    value = int.from_bytes(head[width : width + digits], "big") & ((1 << 7 * digits) - 1)
    return head[:width], start + width + digits, None if value == (1 << 7 * digits) - 1 else value
