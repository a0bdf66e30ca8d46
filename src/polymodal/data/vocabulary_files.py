"""Reading the small files around a tokenizer: never more than a stated size, every defect one line.

Folders come from strangers, so a file is read up to a limit that no published vocabulary reaches, and JSON that nests
without end or is no table is a WeightsError like any other damage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polymodal.errors import WeightsError

MAX_VOCABULARY = 1 << 26  # 64 MiB; the largest published tokenizer.model has 4 MB, vocab.json 14 MB
MAX_TOKENIZER_JSON = 1 << 28  # 256 MiB; the largest published one has 60 MB
MAX_SETTINGS = 1 << 26


def read_bytes(path: Path, limit: int = MAX_VOCABULARY) -> bytes:
    """The whole file; raises WeightsError when it cannot be read or has more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise WeightsError(f"tokenizer: cannot read {path} ({error.__class__.__name__})") from None
    if len(data) > limit:
        raise WeightsError(f"tokenizer: {path} has more than {limit} bytes, which no vocabulary has; check the file")
    return data


def read_text(path: Path, limit: int = MAX_VOCABULARY) -> str:
    """The whole file as UTF-8; raises WeightsError when it is not."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"tokenizer: cannot read {path} (UnicodeDecodeError)") from None


def read_table(path: Path, limit: int = MAX_SETTINGS) -> dict[str, Any]:
    """A JSON table, empty when there is no such file; raises WeightsError when it is not one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_text(path, limit))
    except (ValueError, RecursionError) as problem:
        raise WeightsError(f"{path} is damaged: {str(problem).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected a table, found {type(found).__name__}")
    return found
