"""Plain values of a file, read straight into memory that exists already, or mapped.

    RawFile(path).read_into(byte, dtype, out)      `out.numel()` values at that byte, cast to out's dtype and device
    RawFile(path).map(byte, dtype, shape)          a tensor whose memory is the file's own pages

What is read leaves nothing of the file in use: it may be deleted, replaced or written over afterwards.  Where dtype or
device differ, the values go through a buffer that fits the processor's cache.  What is mapped costs nothing until it
is used, and processes share its pages; writing to it (training in place) changes a private copy of the page, never
the file.  The file may be deleted or replaced by another of its name, as downloads and `Model.save` do it, but not
written over or cut in place: a page that is gone ends the process.  A file that changes between its header and its
values is refused.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from io import FileIO
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import open_regular
from polymodal.weights.limits import VARIABLE, weights_limits

# Below torch's limit for splitting an operation over threads: the caller's threads do that, one tensor each.
_LARGE = 1 << 30
_LFS = b"version https://git-lfs"
_PIECE = 32_000
_PIECE_TO_DEVICE = 4_000_000


class RawFile:
    """One file of a fixed size and time of change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular(path) as file:
            self._stamp = _stamp(os.fstat(file.fileno()))
        self._pages: mmap.mmap | None = None
        self._lock = threading.Lock()

    def read_into(self, start: int, dtype: torch.dtype, out: Tensor) -> None:
        """Fill contiguous `out` from byte `start`.  Raises WeightsError when the file ends early or was changed."""
        if not out.numel():
            return
        flat = out.detach().view(-1)
        with _unbuffered(self.path) as file:
            self._require_unchanged(file)
            file.seek(start)
            if flat.device.type == "cpu" and flat.dtype == dtype:
                self._fill(file, flat)
                return
            size = _PIECE if flat.device.type == "cpu" else _PIECE_TO_DEVICE
            buffer = torch.empty(min(size, flat.numel()), dtype=dtype)
            for part in flat.split(size):
                held = buffer[: part.numel()]
                self._fill(file, held)
                part.copy_(held)

    def read(self, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """A tensor of its own."""
        out = torch.empty(shape, dtype=dtype)
        self.read_into(start, dtype, out)
        return out

    def map(self, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
        """A tensor in the pages of the file; None where that cannot be: no values, not aligned, no address space.

        Raises WeightsError when the file was changed.
        """
        count = math.prod(shape)
        if not count or start % dtype.itemsize:
            return None
        try:
            pages = self._map_file()
        except OSError:
            return None
        return torch.frombuffer(pages, dtype=dtype, count=count, offset=start).view(shape)

    def _map_file(self) -> mmap.mmap:
        with self._lock:
            if self._pages is None:
                with _unbuffered(self.path) as file:
                    self._require_unchanged(file)
                    self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                if hasattr(mmap, "MADV_WILLNEED"):
                    self._pages.madvise(mmap.MADV_WILLNEED)  # begin to read what is not in memory yet
            return self._pages

    def _require_unchanged(self, file: FileIO) -> None:
        if _stamp(os.fstat(file.fileno())) != self._stamp:
            raise WeightsError(f"{self.path} was changed while it was being read; load it again")

    def _fill(self, file: FileIO, flat: Tensor) -> None:
        view = memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # an array is a buffer
        while view:
            count = file.readinto(view)
            if not count:
                raise WeightsError(f"{self.path} ends early; download it again")
            view = view[count:]


def read_head(path: Path, count: int) -> tuple[bytes, int]:
    """First bytes and size of a file, after the checks that hold for every format."""
    if not os.path.lexists(path):
        raise WeightsError(f"{path}: there is no such file")
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            start = file.read(max(count, len(_LFS)))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if found.st_size == 0:
        raise WeightsError(f"{path}: the file is empty; download it again")
    if start.startswith(_LFS):
        raise WeightsError(f"{path}: this is a git-lfs pointer, not the weights; run `git lfs pull`")
    # Disks that cannot tell say 0.
    on_disk = 512 * getattr(found, "st_blocks", 0)
    if found.st_size > _LARGE and 0 < on_disk < found.st_size // weights_limits().sparse:
        raise WeightsError(
            f"{path}: of its {found.st_size:,} bytes only {on_disk:,} are on the disk, the rest was never written; "
            f"download it again, or set {VARIABLE}=sparse={found.st_size // on_disk + 1} for a file of your own"
        )
    return start[:count], found.st_size


def _unbuffered(path: Path) -> FileIO:
    return cast("FileIO", open_regular(path).detach())  # type: ignore[attr-defined]


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns
