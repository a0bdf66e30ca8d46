"""Whether a file in the cache is still the one that was downloaded.

    <file>.sha256               beside each file that we downloaded: its hash, written when it was verified
    verified/<digest>.json      hash, size and time of change of a file when it was last read whole

At each use a file's size and time of change are compared with what was noted; only where they differ is it read
again, so that 30 GB are not read at every start.  Who can write into the cache can also set a file's time back:
`verify_cache` (`polymodal pull --verify`) reads every file and trusts no time.

Traps: a copied cache may have other times; each of its files is read once, and used when it is the same.  In the hub
folder a file is a link to its blob; the blob is what counts, and an older blob without a note is checked by its
name, which is its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymodal.errors import WeightsError
from polymodal.weights.cache import digest_note, digests, home, staged, writing
from polymodal.weights.source import Source

_LONGEST_NOTE = 4096


class ChangedFile(WeightsError):
    """A file of the cache is not the one that was downloaded."""


def verify_outside(source: Source, path: Path) -> None:
    """Verify a file against its record; the result is remembered until the file changes.  Raises WeightsError."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        raise WeightsError(f"{source}: expected {source.size} bytes, found {size} in {path}")
    if source.sha256 and (digest := digest_of(path)) != source.sha256:
        raise WeightsError(f"{source}: {path} has sha256 {digest}, expected {source.sha256}")


def require_unchanged(path: Path) -> None:
    """Raises ChangedFile for a file that is not the one that was downloaded; a file without a note passes."""
    path = path.resolve()
    noted = noted_digest(path)
    if noted is not None and (found := digest_of(path)) != noted:
        raise ChangedFile(f"{path} {_changed(noted, found)}; remove it, then `polymodal pull` fetches it again")


def _changed(noted: str, found: str) -> str:
    return f"was changed after it was downloaded: expected sha256 {noted[:16]}..., found {found[:16]}..."


def noted_digest(path: Path) -> str | None:
    """The sha256 that was written beside a file when it was verified."""
    try:
        text = digest_note(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def digest_of(path: Path) -> str:
    """The sha256 of a file: the one noted while its size and time of change are the same, else the file is read."""
    now = _state(path)
    record = _record(now)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        with record.open("rb") as file:
            known = json.loads(file.read(_LONGEST_NOTE))
        if {key: known[key] for key in now} == now:
            return str(known["sha256"])
    (digest,) = digests(path, "sha256")
    note_digest(path, digest, now)
    return digest


def note_digest(path: Path, digest: str, state: dict[str, Any] | None = None) -> None:
    """Note what a file's sha256 is found to be.  A cache that cannot be written is read as well as another."""
    known = (state or _state(path)) | {"sha256": digest}
    record = _record(known)
    with contextlib.suppress(WeightsError), writing(record), staged(record) as draft:
        draft.write_text(json.dumps(known), encoding="utf-8")
        os.replace(draft, record)


def _state(path: Path) -> dict[str, Any]:
    """What tells that a file is still the same; inside the cache folder its path there, which a copy of it keeps."""
    stat, full, cache = path.stat(), path.resolve(), home().resolve()
    shown = full.relative_to(cache) if full.is_relative_to(cache) else full
    return {"path": str(shown), "size": stat.st_size, "time": stat.st_mtime_ns}


def _record(state: dict[str, Any]) -> Path:
    return home() / "verified" / f"{hashlib.sha256(os.fsencode(state['path'])).hexdigest()[:32]}.json"


@dataclass
class Verified:
    """What `verify_files` found: files that were read, their bytes, a line for each that is not as downloaded."""

    files: int = 0
    bytes: int = 0
    changed: list[str] = field(default_factory=list)
    unknown: int = 0


def verify_cache(progress: Callable[[str, int, int | None], None] | None = None) -> Verified:
    """Read every file of the cache folder and compare it with the hash noted at its download."""
    return verify_files(_cached(), progress)


def verify_files(paths: Iterable[Path], progress: Callable[[str, int, int | None], None] | None = None) -> Verified:
    """Read files and compare each with its note; `unknown` counts those that have none."""
    listed = list(dict.fromkeys(path.resolve() if path.is_file() else path for path in paths))
    sizes = {path: path.stat().st_size if path.is_file() else 0 for path in listed}
    total, report, read = sum(sizes.values()), Verified(), 0
    for path in listed:
        wrong = _wrong(path)
        if wrong is None:
            report.unknown += 1
        else:
            report.files, report.bytes = report.files + 1, report.bytes + sizes[path]
            if wrong:
                report.changed.append(f"{path} {wrong}")
        read += sizes[path]
        if progress is not None:
            progress("reading the cache", read, total)
    return report


def _wrong(path: Path) -> str | None:
    """What is wrong with a file, '' when it is as downloaded, None when nobody noted what it was."""
    noted = noted_digest(path)
    by_name = path.name if path.parent.name == "blobs" else ""
    try:
        if noted is not None:
            (found,) = digests(path, "sha256")
            note_digest(path, found)
            return "" if found == noted else _changed(noted, found)
        if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", by_name):
            hashes = digests(path, "sha256" if len(by_name) == 64 else "git")
            return "" if by_name in hashes else f"was changed after it was downloaded: its hash is {hashes[0][:16]}..."
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _cached() -> Iterator[Path]:
    """All files under the cache folder that were downloaded; a note whose file was removed says nothing."""
    for folder in ("files", "joined", "hub"):
        for path in sorted((home() / folder).rglob("*")):
            if path.name.endswith(".sha256"):
                noted = path.with_name(path.name.removesuffix(".sha256"))
                if noted.is_file():
                    yield noted
            elif path.parent.name == "blobs" and path.is_file() and not path.name.endswith((".part", ".etag", ".lock")):
                yield path


def changed_files() -> list[str]:
    """A line for each cached file that is not as downloaded; only files whose size or time differ are read."""
    found = []
    for path in dict.fromkeys(_cached()):
        try:
            require_unchanged(path)
        except WeightsError as error:
            found.append(str(error))
        except OSError as error:
            found.append(
                f"{path} cannot be read ({error.strerror}); remove {digest_note(path).name} and fetch it again"
            )
    return found
