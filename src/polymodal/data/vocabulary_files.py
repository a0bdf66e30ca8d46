"""Reading the small files around a tokenizer: never more than a stated size, every defect one line.

Folders come from strangers, so a file is read up to a limit that no published vocabulary reaches, and JSON that nests
without end or is no table is a WeightsError like any other damage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymodal import files
from polymodal.errors import WeightsError

MAX_VOCABULARY = 1 << 26  # 64 MiB; the largest published tokenizer.model has 4 MB, vocab.json 14 MB
MAX_TOKENIZER_JSON = 1 << 28  # 256 MiB; the largest published one has 60 MB
MAX_SETTINGS = 1 << 26


def read_bytes(path: Path, limit: int = MAX_VOCABULARY) -> bytes:
    """The whole file; raises WeightsError when it cannot be read or has more than `limit` bytes."""
    return files.read_bytes(path, limit)


def read_text(path: Path, limit: int = MAX_VOCABULARY) -> str:
    """The whole file as UTF-8; raises WeightsError when it is not."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"tokenizer: cannot read {path} (UnicodeDecodeError)") from None


def read_table(path: Path, limit: int = MAX_SETTINGS) -> dict[str, Any]:
    """A JSON table, empty when there is no such file; raises WeightsError when it is not one."""
    if not path.exists():
        return {}
    found = files.read_json(path, limit)
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected a table, found {type(found).__name__}")
    return found
