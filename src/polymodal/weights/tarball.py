"""The members of a packed tar archive, read once from its start to the one that is wanted.

flow:  gzip -> blocks of 512 bytes: header (name, size, kind), body rounded up to blocks, header, ...

Long names stand in a member of their own before the one that they name: kind "L" (GNU, the text alone) or "x" (pax,
lines of "LENGTH key=value"), which may also give a size that the header has no room for.

Traps: the library's tarfile reads such members whole, of any size, and takes the square of their length in time; it
goes back where a size is negative.  This reader only goes forward, keeps at most 64 kB and takes time linear in what
it unpacks.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = 512
_PIECE = 1 << 18
_LENGTH = re.compile(rb"([0-9]{1,6}) ")
_LONG = 1 << 16  # bytes of a long name or of pax lines
_PLAIN = frozenset(b"0\0007")
_BODILESS = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))  # links, devices, folders, pipes: a size says nothing


class Damaged(ValueError):
    """Not an archive that a packaging tool writes."""


@dataclass(frozen=True)
class Entry:
    """A member: its path, whether it is a plain file, its bytes."""

    name: str
    plain: bool
    size: int


class Tarball:
    """An open archive; `entries` goes forward, `read` gives the body of the entry that was given last."""

    def __init__(self, path: Path, most: int, file: Any = None) -> None:
        """most: bytes that may be unpacked in all.  file: the archive as it reads unpacked, where it is not gzip's."""
        self._file = gzip.GzipFile(path) if file is None else file
        self._most, self._done = most, 0
        self._left, self._padding = 0, 0

    def __enter__(self) -> Tarball:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """Every member but the long names.  Raises Damaged, TooMuch, and what gzip raises."""
        name, size = "", None
        while (header := self._exact(_BLOCK)) and header.count(0) < _BLOCK:
            kind = header[156:157]
            own, self._left = self._header(header)
            if kind in (b"L", b"x"):
                text = self._small()
                if kind == b"L":
                    name = text.split(b"\0")[0].decode("utf-8", "replace")
                else:
                    found = _pax(text)
                    name = found.get(b"path", b"").decode("utf-8", "replace") or name
                    size = _whole(found[b"size"]) if b"size" in found else size
                continue
            if kind == b"S":
                raise Damaged("it holds a sparse file, which packages do not")
            if kind in _BODILESS:
                self._left, self._padding, size = 0, 0, None
            if kind not in (b"g", b"K"):
                if size is not None:
                    self._left, self._padding = size, -size % _BLOCK
                path = name or own
                yield Entry(path.rstrip("/"), header[156] in _PLAIN and not path.endswith("/"), self._left)
                name, size = "", None
            self._skip()

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the present entry's body, b"" at its end."""
        block = self._take(min(size, self._left))
        if not block and self._left:
            raise EOFError("it ends within a file")
        self._left -= len(block)
        return block

    def _header(self, header: bytes) -> tuple[str, int]:
        """(name, size) of a header whose sum is right."""
        written, found = _number(header[148:156]), sum(header) - sum(header[148:156]) + 8 * 32
        # Some tools take bytes as signed.
        signed = found - 256 * sum(byte >= 128 for byte in header[:148] + header[156:])
        if written not in (found, signed):
            raise Damaged("a header's sum is wrong")
        size = _number(header[124:136])
        self._padding = -size % _BLOCK
        name = header[:100].split(b"\0")[0]
        prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
        return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace"), size

    def _small(self) -> bytes:
        if self._left > _LONG:
            raise Damaged(f"a name of {self._left:,} bytes, the limit is {_LONG:,}")
        text = self._exact(self._left)
        self._left = 0
        self._skip()
        return text

    def _skip(self) -> None:
        """To the next header."""
        rest, self._left, self._padding = self._left + self._padding, 0, 0
        while rest:
            block = self._take(min(rest, _PIECE))
            if not block:
                raise EOFError("it ends within a file")
            rest -= len(block)

    def _exact(self, size: int) -> bytes:
        """So many bytes, or none at the end of the archive."""
        data = b""
        while len(data) < size and (block := self._take(size - len(data))):
            data += block
        if data and len(data) < size:
            raise EOFError("it ends within a header")
        return data

    def _take(self, size: int) -> bytes:
        self._done += size
        if self._done > self._most:
            raise TooMuch
        block: bytes = self._file.read(size)
        return block


class TooMuch(ValueError):
    """More is unpacked than is allowed."""


def _number(text: bytes) -> int:
    """A number of a header: octal digits, or from 8 GiB on eleven bytes after 0x80."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise Damaged("a header's number is none")
    return int(digits or b"0", 8)


def _whole(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        raise Damaged("the size of a member is no number")
    return int(text)


def _pax(text: bytes) -> dict[bytes, bytes]:
    """Lines of "LENGTH key=value\\n", where LENGTH counts the whole line."""
    found: dict[bytes, bytes] = {}
    place = 0
    while place < len(text):
        head = _LENGTH.match(text, place)
        if head is None or int(head[1]) <= len(head[0]):
            raise Damaged("the lines before a member are not pax")
        key, equals, value = text[head.end() : place + int(head[1]) - 1].partition(b"=")
        if not equals or place + int(head[1]) > len(text):
            raise Damaged("the lines before a member are not pax")
        found[key] = value
        place += int(head[1])
    return found
