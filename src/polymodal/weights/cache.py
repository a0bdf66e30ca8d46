"""The cache folder: where fetched files lie, who may write them, and which of them have been verified.

    $POLYMODAL_HOME (default $XDG_CACHE_HOME/polymodal, ~/.cache/polymodal)
      files/<kind>/<name>/<revision>/<file>      verified files, put there by one rename
      files/.../<file>.sha256                    the hash that was found when the file was verified
      packages/                                  wheels and tarballs while they are needed, `.part` of
      downloads joined/<digest>/<file>                     files joined from several sources
      verified/                                  hashes of files that lie elsewhere (hub cache, local folders)

Traps: a file under `files/` is complete and was verified, otherwise it would not be there; whether it changed since is
the matter of verified.py.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from polymodal.errors import StorageError, WeightsError
from polymodal.weights.source import Source, megabytes

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class WrongFile(WeightsError):
    """What was fetched is not what a record or a server promised; it is removed, so that the next try can succeed."""


def home() -> Path:
    """The cache folder of this user.

    A user without a home folder (a container that runs as a bare number) has one of his own in the folder for temporary
    files.  Raises WeightsError when there is no such folder either, or when POLYMODAL_HOME is of a user who is not.
    """
    named = os.environ.get("POLYMODAL_HOME")
    if named:
        path = os.path.expanduser(named)
        if path.startswith("~"):
            raise WeightsError(f"POLYMODAL_HOME is {named!r}, and there is no such user; set it to a folder of yours")
        return Path(path)
    usual, shared = os.path.expanduser("~/.cache/polymodal"), os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):
        beside = os.path.join(shared, "polymodal")
        # What was fetched before XDG_CACHE_HOME was followed is not fetched again.
        return Path(usual if os.path.isdir(usual) and not os.path.isdir(beside) else beside)
    return _without_home() if usual.startswith("~") else Path(usual)


def _without_home() -> Path:
    user = os.getuid()
    try:
        folder = Path(tempfile.gettempdir()) / f"polymodal-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise StorageError(f"the user {user} has no home folder; set POLYMODAL_HOME to a folder of yours") from error
    if owner != user or folder.is_symlink():
        raise WeightsError(f"{folder} belongs to somebody else; set POLYMODAL_HOME to a folder of yours")
    return folder


def has_home() -> bool:
    """Whether the cache folder lies where it will be found again; not so in the folder for temporary files."""
    named = os.environ.get("POLYMODAL_HOME") or os.path.isabs(os.environ.get("XDG_CACHE_HOME", ""))
    return bool(named) or not os.path.expanduser("~").startswith("~")


def is_offline() -> bool:
    """True when POLYMODAL_OFFLINE asks for no network at all."""
    return os.environ.get("POLYMODAL_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def cache_path(source: Source) -> Path:
    """Where the file of a source lies once fetched."""
    return home() / "files" / source.kind / Path(source.name) / source.revision / PurePosixPath(source.file)


def packages() -> Path:
    """The folder for wheels, tarballs and partial downloads."""
    return home() / "packages"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`; a second process waits here and then finds the finished file."""
    from filelock import FileLock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system into one line."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError, kept: str = "") -> StorageError:
    """The message for a full disk, a read-only folder and the like."""
    if error.errno in DISK_FULL:
        free = "free some space there or set POLYMODAL_HOME to another disk, then run the same command again"
        return StorageError(f"{path.parent}: the disk is full{kept}; {free}")
    why = error.strerror or str(error)
    return StorageError(f"{path}: cannot be written: {why}{kept}; set POLYMODAL_HOME to a folder of yours")


def require_space(path: Path, needed: int | None) -> None:
    """Fail before a download that cannot fit."""
    if needed is None:
        return
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path.parent}: {megabytes(needed)} are needed and {megabytes(free)} are free; "
            "free some space there or set POLYMODAL_HOME to another disk"
        )


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(path: Path, algorithm: str) -> tuple[str, ...]:
    """The hexadecimal hash of a file; for "git" the two that stores have as its ETag: git's own and plain sha1."""
    if algorithm != "git":
        with path.open("rb") as file:
            return (hashlib.file_digest(file, algorithm).hexdigest(),)
    git, plain = hashlib.sha1(usedforsecurity=False), hashlib.sha1(usedforsecurity=False)
    git.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            git.update(block)
            plain.update(block)
    return git.hexdigest(), plain.hexdigest()


def digest_note(path: Path) -> Path:
    """The file beside a downloaded one that holds its sha256."""
    return path.with_name(path.name + ".sha256")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, removed again unless the caller has renamed it away."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file in one step: who reads it meanwhile finds the old text or the new one."""
    with writing(path), staged(path) as draft:
        draft.write_text(text, encoding="utf-8")
        os.chmod(draft, 0o644)
        os.replace(draft, path)


def install(draft: Path, path: Path, digest: str) -> None:
    """Give a verified temporary file its final name; without its hash record, written last, it does not count."""
    with writing(path):
        digest_note(path).unlink(missing_ok=True)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    write_whole(digest_note(path), digest + "\n")


def lookup(source: Source) -> Path | None:
    """The cached file of a source, or None; a file that does not fit the record counts as absent."""
    path = cache_path(source)
    try:
        size = path.stat().st_size
        digest = digest_note(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    if (source.size in (None, size)) and source.sha256 in ("", digest):
        return path
    return None


def check_digest(source: Source, digest: str, size: int) -> None:
    """Compare a finished file with its record; raises WeightsError."""
    if source.size is not None and size != source.size:
        raise WrongFile(f"{source}: expected {source.size} bytes, found {size}; the file was removed, try again")
    if source.sha256 and digest != source.sha256:
        raise WrongFile(
            f"{source}: expected sha256 {source.sha256}, found {digest}; the file was removed, "
            "try again, and if it stays so do not trust this source"
        )
