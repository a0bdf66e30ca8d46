"""Members of zip archives that strangers wrote: torch and TorchScript files, npz.

    members = Members(open_regular(path), limits); members.infos; members.begins(name); members.read(name)

Python's zipfile reads the whole table of members at once, whatever its size, and unpacks what a member claims.  So the
table is counted while it is read, members may not share bytes of the file, and what they unpack to is bounded.
"""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from typing import Any, BinaryIO

from polymodal.weights.limits import WeightsLimits, over

_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Members:
    """The members of an open archive, which it keeps open."""

    def __init__(self, file: BinaryIO, limits: WeightsLimits) -> None:
        """Raises OverLimit, zipfile.BadZipFile, ValueError and others for damage."""
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        counted = _Counted(file, limits)
        self.zip = zipfile.ZipFile(counted)  # type: ignore[arg-type]
        counted.opening = False
        found = self.zip.infolist()
        self.infos = {info.filename: info for info in found}
        if len(self.infos) != len(found):
            raise ValueError("two members of the archive have one name")
        if any(info.compress_type not in _METHODS for info in found):
            raise ValueError("a member of the archive is neither stored nor deflated")
        if sum(info.compress_size for info in found) > self.size:
            raise ValueError("members of the archive claim the same bytes of the file")
        if (total := sum(info.file_size for info in found)) > (most := limits.bytes_of(self.size)):
            raise over("bytes", f"its members unpack to {total:,} bytes, which is more", most)

    def __del__(self) -> None:
        self.file.close()

    def is_plain(self, name: str) -> bool:
        """Whether the member lies in the file as it is."""
        info = self.infos[name]
        return info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size

    def begins(self, name: str) -> int:
        """The byte of the file at which a plain member's content begins.  Not for several threads at once."""
        info = self.infos[name]
        self.file.seek(info.header_offset)
        head = self.file.read(30)
        if len(head) < 30 or head[:4] != _LOCAL:
            raise ValueError(f"member {name!r} has no header")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        if start + info.file_size > self.size:
            raise ValueError(f"member {name!r} ends behind the file")
        return start

    def read(self, name: str) -> bytes:
        """The content of a member, by any thread."""
        info = self.infos[name]
        with self.zip.open(info) as member:
            data = member.read(info.file_size)
        if len(data) != info.file_size:
            raise ValueError(f"member {name!r} ends early")
        return data


class _Counted:
    """A file of which an archive's table of members is read: refuses one that is too long, before zipfile parses it."""

    def __init__(self, file: BinaryIO, limits: WeightsLimits) -> None:
        self._file, self._limits, self.opening = file, limits, True

    def read(self, count: int = -1) -> bytes:
        if not self.opening:
            return self._file.read(count)
        data = self._file.read(min(count if count >= 0 else sys.maxsize, self._limits.header + 1))
        if len(data) > self._limits.header:
            raise over("header", "its table of members is longer", self._limits.header)
        if data.count(_ENTRY) > self._limits.tensors:
            raise over("tensors", "it has more members", self._limits.tensors)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
