"""Files of an evaluation: what was measured (run.json), a line a sample (samples.jsonl), the numbers (result.json).

A line is whole or is not there: what a killed process left of one is cut off, and its sample is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymodal.api.run_record import holds
from polymodal.errors import ConfigError, StorageError
from polymodal.files import read_json

RUN, SAMPLES, RESULT = "run.json", "samples.jsonl", "result.json"


def settle(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a new run, or make sure that the one in `folder` is the same.  Raises ConfigError."""
    held = read_json(folder / RUN, error=ConfigError) if (folder / RUN).is_file() else None
    if not holds(folder, held if held is None or isinstance(held, dict) else {}, record, "evaluation"):
        save(folder / RUN, json.dumps(record, indent=1, ensure_ascii=False))


def read_lines(path: Path) -> dict[int, dict[str, Any]]:
    """What was done before, by the number of the sample.  Raises ConfigError for a line that is damaged."""
    found: dict[int, dict[str, Any]] = {}
    if not path.exists():
        return found
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        save(path, whole)
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            value = json.loads(line)
            found[value["index"]] = value
        except (ValueError, TypeError, KeyError) as problem:
            raise ConfigError(f"{path}:{number} is damaged; remove {path.parent} to begin again") from problem
    return found


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines, which are on the disk afterwards.  Raises StorageError; what was there before stays."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise StorageError(f"cannot write {path}: {problem.strerror}; what was measured before is kept") from problem


def save(path: Path, text: str) -> None:
    """Write a file under another name and rename it.  Raises StorageError, an older one untouched."""
    made = path.with_name(f"{path.name}.part")
    try:
        made.write_text(text, encoding="utf-8")
        os.replace(made, path)
    except OSError as problem:
        raise StorageError(f"cannot write {path}: {problem.strerror}") from problem
