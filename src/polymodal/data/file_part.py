"""A piece of an open file as a file of its own: what stands before and behind it is not seen."""

import io
import os
from dataclasses import replace
from typing import BinaryIO, cast

from polymodal.data.source import HEAD_BYTES, OpenFile


def part_of(opened: OpenFile, start: int, end: int) -> OpenFile:
    """The bytes start to end of an opened file; itself where that is all of it."""
    opened.file.seek(0)
    if (start, end) == (0, opened.size):
        return opened
    file = cast(BinaryIO, FilePart(opened.file, start, end - start))
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return replace(opened, file=file, size=end - start, head=head)


class FilePart(io.RawIOBase):
    """`size` bytes of `file` from `start` on.  Any position may be sought: a damaged file has decoders seek anywhere,
    and an error inside their callback would be printed."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readinto(self, buffer) -> int:
        if self._at >= self._size:
            return 0
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        found = self._file.read(min(len(view), self._size - self._at))
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at
