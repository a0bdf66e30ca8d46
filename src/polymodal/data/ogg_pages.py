"""The pages of an Ogg file (RFC 3533): which streams it holds, one after another, and how much stands before the sound.

    page: "OggS", version, flags, granule position, serial, sequence, checksum, lacing values -> size of its data

Files that were joined (`cat a.ogg b.ogg`, a radio station's recording) are chained: a new stream begins where the old
one has ended.  libsndfile reads the first only, so each is read as a file of its own.
Traps: a video begins several streams at once, on pages that follow each other; FFmpeg takes time that grows with the
square of the number of comments, so it is not asked what a file holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from polymodal.data.limits import Limits, how_to_raise
from polymodal.data.source import OpenFile, megabytes
from polymodal.errors import MediaError

_HEADER = 27
_BEGINS = 2  # flag of the first page of a stream
_NO_PACKET_ENDS = (1 << 64) - 1
_VIDEO = (b"\x80theora", b"\x01video", b"BBCD", b"\x80daala", b"OVP80")
_SOUND = (b"\x01vorbis", b"OpusHead", b"Speex   ", b"\x7fFLAC", b"\x01audio", b"fLaC", b"PCM     ")


@dataclass
class Link:
    """A stream, or several at once, of a chained file.  start, end: its bytes.  kinds: "video" and "audio"."""

    start: int
    end: int
    kinds: frozenset[str] = frozenset()


def read_links(opened: OpenFile, limits: Limits) -> list[Link]:
    """The links of an Ogg file, in order; at least one.

    Raises MediaError for more than `Limits.pieces` pages or `Limits.metadata` bytes of comments.
    """
    file, start, pages, headers, beginning = opened.file, 0, 0, 0, False
    links: list[Link] = []
    while True:
        file.seek(start)
        head = file.read(_HEADER + 255 + 16)
        if len(head) < _HEADER or head[:4] != b"OggS":
            break  # what follows is no page, for the decoder to skip or to refuse
        lacing = head[_HEADER : _HEADER + head[26]]
        begins = bool(head[5] & _BEGINS)
        if begins and not beginning:
            links.append(Link(start, opened.size))
            headers = 0
            if len(links) > 1:
                links[-2].end = start
        if begins and links:
            links[-1].kinds |= _kinds(head[_HEADER + len(lacing) :])
        beginning, pages = begins, pages + 1
        headers = _header_bytes(headers, head, sum(lacing))
        start += _HEADER + len(lacing) + sum(lacing)
        _check(opened, pages, headers, limits)
    file.seek(0)
    return links or [Link(0, opened.size)]


def _header_bytes(headers: int, head: bytes, size: int) -> int:
    """Bytes of data in front of the first page on which a packet of sound ends; -1 when that was passed."""
    granule = int.from_bytes(head[6:14], "little")
    return headers + size if headers >= 0 and granule in (0, _NO_PACKET_ENDS) else -1


def _kinds(packet: bytes) -> frozenset[str]:
    if packet.startswith(_VIDEO):
        return frozenset({"video"})
    return frozenset({"audio"}) if packet.startswith(_SOUND) else frozenset()


def _check(opened: OpenFile, pages: int, headers: int, limits: Limits) -> None:
    if pages > limits.pieces:
        raise MediaError(
            f"{opened.name} has more than {limits.pieces:,} pages, the limit ({how_to_raise('pieces', 2 * pages)})"
        )
    if headers > limits.metadata:
        raise MediaError(
            f"{opened.name} has more than {megabytes(limits.metadata)} of metadata, the limit "
            f"({how_to_raise('metadata', 2 * headers)})"
        )
