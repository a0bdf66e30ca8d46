"""SHA256SUMS of a prepared set: a line for each of its files, as `sha256sum -c SHA256SUMS` reads them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from polymodal.errors import ConfigError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path) -> None:
    """Note what every file below the folder is now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> tuple[int, int, list[str]]:
    """How many files were read, their bytes, a line for each that is not as it was noted.  Raises ConfigError."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as problem:
        raise ConfigError(f"{folder} has no readable {SUMS}; remove it and prepare the set again") from problem
    size, changed = 0, []
    for line in lines:
        match = _LINE.fullmatch(line)
        path = folder / (match[2] if match else line)
        if match is None or not path.is_file():
            changed.append(f"{path} is not there")
            continue
        size += path.stat().st_size
        if _sha256(path) != match[1]:
            changed.append(f"{path} was changed after it was prepared")
    return len(lines), size, changed


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
