"""System files of users beside saved weights: which file a folder belongs to, and when it may be run.

    save      a copy of the file lies in the folder, its path and hash in polymodal.json; the hash is noted in this
              user's cache folder (systems/<hash>), since the user has run that very file
    load      a file of a hash that is noted is run: the one at its path, else the copy; any other only when the user
              names it, pm.load(folder, system="./my_system.py")

So a folder from elsewhere never brings code that runs.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymodal import systems
from polymodal.errors import ConfigError, WeightsError
from polymodal.weights.cache import file_sha256, home

Record = Mapping[str, Any]


def kept(code: Path, draft: Path) -> dict[str, str]:
    """Copy a system file beside the weights and note it as one that was run; what the record says of it."""
    shutil.copyfile(code, draft / code.name)
    hash = file_sha256(code)
    with contextlib.suppress(OSError, WeightsError):  # without a cache folder the file must be named on loading
        noted = _note(hash)
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text(f"{code.absolute()}\n", encoding="utf-8")
    return {"file": code.name, "path": str(code.absolute()), "sha256": hash}


def code_of(record: Record, folder: Path) -> Path | None:
    """The system file to run for a saved folder; None for a system of the catalogue.

    Raises ConfigError for a file that this user has not run, WeightsError for a damaged record.
    """
    said = record.get("code")
    if said is None:
        return None
    if not isinstance(said, Mapping) or not all(isinstance(said.get(key), str) for key in ("file", "path", "sha256")):
        raise WeightsError(f"{folder / 'polymodal.json'} is damaged: 'code' must name a file, its path and its hash")
    copy = folder / Path(said["file"]).name
    noted = _noted_path(said["sha256"])
    if noted is not None:
        # The record may name any path: a file of the same words is run at the user's own place alone, or as the copy.
        own = [Path(said["path"])] if said["path"] == noted else []
        for path in (*own, copy):
            if path.suffix == ".py" and path.is_file() and file_sha256(path) == said["sha256"]:
                systems.require(path, said["sha256"])  # nothing can be put in its place between now and then
                return path
    raise ConfigError(
        f"{folder} is of the system file {said['file']}, which is Python and runs only when you name it: "
        f"pm.load({str(folder)!r}, system={str(copy)!r})"
    )


def system_file(name: str) -> Path | None:
    """The user's file that a name "./file.py" or "./file.py:variant" means; None for another name."""
    path = Path(name.partition(":")[0])
    return path if path.suffix == ".py" else None


def named_by_user(*names: str | Path | None) -> None:
    """A file that the user names is run as it is, even where a saved folder named it before."""
    for name in names:
        path = system_file(str(name))
        if path is not None:
            systems.require(path, None)


def _noted_path(hash: str) -> str | None:
    """Where the file of this hash was when the user ran it, None where nobody did."""
    try:
        note = _note(hash) if hash.isascii() and hash.isalnum() else None
        return note.read_text(encoding="utf-8").rstrip("\n") if note is not None and note.is_file() else None
    except (OSError, ValueError, WeightsError):
        return None


def _note(hash: str) -> Path:
    return home() / "systems" / hash
