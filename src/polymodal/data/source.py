"""Opening a file or a block of bytes as media: bounded, local, and recognised by content.

path | bytes -> one open file, its size, its first bytes -> format name (`sniff`) -> the reader for that
format.

Traps: a string such as ``http://...`` or ``concat:a|b`` would be a protocol to FFmpeg, so strings that look
like one are refused here and the decoders only ever receive a file object that we opened.  File extensions
are never looked at.  Error text holds the file's name but neither its folder nor text of the native
libraries, which may contain addresses of memory.
"""

import base64
import codecs
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polymodal.data.limits import Limits, how_to_raise
from polymodal.errors import MediaError
from polymodal.files import open_regular

HEAD_BYTES = 4096
IMAGE_FORMATS = frozenset({"jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heif"})
SOUND_FORMATS = frozenset(
    {"wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "nist", "voc", "svx", "ircam", "avr", "paf", "pvf"}
)
"""Those that libsndfile reads first; the containers may be video, too."""
CONTAINER_FORMATS = frozenset(
    {"mp4", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "aac", "amr", "wavpack", "ape", "tta"}
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:")
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_MAGIC = (
    ("jpeg", b"\xff\xd8\xff"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("npy", b"\x93NUMPY"),
    ("gif", b"GIF87a"),
    ("gif", b"GIF89a"),
    ("tiff", b"II*\x00"),
    ("tiff", b"MM\x00*"),
    ("flac", b"fLaC"),
    ("ogg", b"OggS"),
    ("mp3", b"ID3"),
    ("matroska", b"\x1aE\xdf\xa3"),
    ("flv", b"FLV\x01"),
    ("au", b".snd"),
    ("au", b"dns."),
    ("caf", b"caff"),
    ("w64", b"riff\x2e\x91\xcf\x11"),
    ("nist", b"NIST_1A\n"),
    ("voc", b"Creative Voice File\x1a"),
    ("ircam", b"\x64\xa3\x01\x00"),
    ("ircam", b"\x64\xa3\x02\x00"),
    ("ircam", b"\x64\xa3\x03\x00"),
    ("ircam", b"\x00\x02\xa3\x64"),
    ("avr", b"2BIT"),
    ("paf", b" paf\x00\x00\x00"),
    ("paf", b"fap \x00\x00\x00"),
    ("pvf", b"PVF1\n"),
    ("amr", b"#!AMR"),
    ("wavpack", b"wvpk"),
    ("ape", b"MAC "),
    ("tta", b"TTA1"),
    ("mpeg", b"\x00\x00\x01\xba"),
    ("mpeg", b"\x00\x00\x01\xb3"),
    ("asf", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2"})
_HEIF_SEQUENCE_BRANDS = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})
_FOUR_CC = {
    b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff", b"8SVX": "svx", b"16SV": "svx",
}  # fmt: skip


@dataclass(frozen=True)
class OpenFile:
    """An open source: a name fit for messages, the file at position 0, its size and its first bytes."""

    name: str
    file: BinaryIO
    size: int
    head: bytes


def sniff(head: bytes) -> str | None:
    """Name of the format that the first bytes announce, "text" for plain text, or None when unknown."""
    for name, magic in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM") and head[8:12] in _FOUR_CC:
        return _FOUR_CC[head[8:12]]
    if head[4:8] == b"ftyp":
        return _sniff_brands(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] in (b"G", b""):
        return "mpegts"
    return _sniff_sync_word(head) or ("text" if looks_like_text(head) else None)


def _sniff_brands(head: bytes) -> str:
    """An `ftyp` box begins pictures (AVIF, HEIC) as well as videos; its first brand says what the file is."""
    first = head[8:12]
    brands = {first, *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4], "big"), 256), 4))}
    if first in _AVIF_BRANDS or (first in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return "avif"
    if first in _HEIF_BRANDS or (first in _HEIF_SEQUENCE_BRANDS and brands & _HEIF_BRANDS):
        return "heif"
    return "camera raw" if first == b"crx " else "mp4"


def _sniff_sync_word(head: bytes) -> str | None:
    """MPEG audio has no magic, only an 11-bit sync word; the fields after it rule out UTF-16 text."""
    if len(head) < 4 or head[0] != 0xFF:
        return None
    if head[1] & 0xF6 == 0xF0 and (head[2] >> 2) & 0xF < 13:
        return "aac"
    layer_two_or_three = head[1] & 0xE6 in (0xE2, 0xE4) and (head[1] >> 3) & 3 != 1
    return "mp3" if layer_two_or_three and head[2] >> 4 not in (0, 15) and (head[2] >> 2) & 3 != 3 else None


def looks_like_text(head: bytes) -> bool:
    """True for UTF-8 without control characters; a character cut off at the end of `head` is forgiven."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(char in "\t\n\r\f" or (char >= " " and char != "\x7f") for char in text)


def clean_name(name: str, longest: int = 80) -> str:
    """A file name fit for a one-line message: no control characters, at most `longest` characters."""
    shown = "".join(char if char.isprintable() else "?" for char in name)
    half = longest // 2
    return shown if len(shown) <= longest else shown[: half - 2] + "..." + shown[1 - half :]


def megabytes(size: float) -> str:
    """A size for a message, in MB of 1e6 bytes (or bytes when small)."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,.0f} bytes"


def decode_base64(data: str | bytes) -> bytes:
    """The bytes of base64 as programs write it: with line breaks, in the alphabet of URLs, without `=` at its end.

    Raises ValueError for anything else.
    """
    text = data.encode("ascii") if isinstance(data, str) else data
    plain = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)


@contextmanager
def open_source(source: str | os.PathLike[str] | bytes, limits: Limits) -> Iterator[OpenFile]:
    """Open a path or bytes for reading, after checking that it is local, regular, not empty and small enough.

    Raises MediaError for what looks like a URL, is missing, a folder, a device, empty, unreadable or too
    large.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        name = f"media of {len(data):,} bytes"
        _check_size(name, len(data), limits)
        yield OpenFile(name, io.BytesIO(data), len(data), data[:HEAD_BYTES])
        return
    if isinstance(source, str) and _SCHEME.match(source):
        if "://" in source:
            raise MediaError(f"{clean_name(source, 200)} is a URL, expected a file of this machine; download it first")
        raise MediaError(
            f"{clean_name(source)!r} looks like a URL or protocol, expected a local file "
            "(a file whose name contains ':' can be given as pathlib.Path)"
        )
    if not isinstance(source, str | os.PathLike):
        raise MediaError(f"media: expected a path or the bytes of a file, found {type(source).__name__}")
    with _open_file(Path(source)) as file:
        name = clean_name(Path(source).name)
        size = os.fstat(file.fileno()).st_size
        _check_size(name, size, limits)
        head = file.read(HEAD_BYTES)
        file.seek(0)
        yield OpenFile(name, file, size, head)


def _check_size(name: str, size: int, limits: Limits) -> None:
    if size == 0:
        raise MediaError(f"{name} is empty (0 bytes)")
    if size > limits.bytes:
        raise MediaError(
            f"{name} has {megabytes(size)}, the limit is {megabytes(limits.bytes)} ({how_to_raise('bytes', size)})"
        )


def _open_file(path: Path) -> BinaryIO:
    # A pipe or device has no end that could be checked before reading.
    expected = "a media file (of a pipe, read it yourself and pass its bytes)"
    name = path.name or str(path) if os.path.exists(path) else str(path)
    return open_regular(path, None, MediaError, name=clean_name(name), expected=expected)
