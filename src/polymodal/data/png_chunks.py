"""A PNG without what only costs: its colour profile, and texts that unpack to megabytes.

    signature, IHDR, [iCCP, tEXt, zTXt, iTXt, ...], IDAT ..., IEND

Pillow makes an error of texts above its own limits, and unpacks a profile that is not used here.
"""

import io
import zlib
from typing import BinaryIO

from polymodal.data.limits import Limits, how_to_raise
from polymodal.data.source import OpenFile
from polymodal.errors import MediaError

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_MAX_TEXT = 256 * 1024  # bytes of one text, above which it is left out
_MAX_TEXTS = 4 * 1024 * 1024  # of all texts together


def without_long_texts(opened: OpenFile, limits: Limits) -> BinaryIO:
    """The file, or a copy in memory without the chunks that are left out.

    Raises MediaError for more than `Limits.pieces` chunks.
    """
    file, kept, start, texts = opened.file, [(0, 8)], 8, 0
    file.seek(start)
    while start + 12 <= opened.size:
        head = file.read(8)
        size, kind = 12 + int.from_bytes(head[:4], "big"), head[4:]
        # All texts behind the one that was too many are left out unseen.
        length = _unpacked(file, kind, size - 12) if kind in _TEXTS and texts <= _MAX_TEXTS else 0
        texts += length if length <= _MAX_TEXT else 0
        if kind not in _TEXTS or (length <= _MAX_TEXT and texts <= _MAX_TEXTS):
            kept.append((start, size))
        if len(kept) > limits.pieces:
            raise MediaError(
                f"{opened.name} has more than {limits.pieces:,} chunks, the limit "
                f"({how_to_raise('pieces', opened.size // 12)})"
            )
        start += size
        file.seek(start)
    file.seek(0)
    if kept[-1][0] + kept[-1][1] == sum(size for _, size in kept):
        return file
    pieces = []
    for begin, size in kept:
        file.seek(begin)
        pieces.append(file.read(size))
    return io.BytesIO(b"".join(pieces))


def _unpacked(file: BinaryIO, kind: bytes, size: int) -> int:
    """Bytes of a text; more than _MAX_TEXT for what is left out: a profile, damage, a text that is too long."""
    too_long = _MAX_TEXT + 1
    if kind == b"iCCP" or size > _MAX_TEXT:
        return too_long
    body = file.read(size)
    packed = body.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and packed[:1] != b"\1"):
        return len(body)
    data = packed[1:] if kind == b"zTXt" else packed[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(zlib.decompressobj().decompress(data, too_long))
    except zlib.error:
        return too_long
