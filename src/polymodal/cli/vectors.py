"""Files of vectors that `embed --out` writes, each row with the file or the text that it belongs to.

X.npy      float32 [N, D]; X.names.json: a list of {"file": name} or {"text": words}, in the same order
X.jsonl    a line for each: {"file" or "text", "vector"}
X.parquet  columns file, text (one of them null), vector (list of float32)
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polymodal.cli.output import as_json
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One vector, float32 [D], of a file or a text."""

    kind: Literal["file", "text"]
    name: str
    vector: Any

    def key(self) -> dict[str, str]:
        """{"file": name} or {"text": words}."""
        return {self.kind: self.name}


def writer(path: Path) -> Callable[[Sequence[Row]], None]:
    """What writes rows to `path`, by its ending.  Raises ConfigError, before anything is computed."""
    writers = {".npy": write_npy, ".jsonl": write_jsonl, ".parquet": write_parquet}
    write = writers.get(path.suffix)
    if write is None:
        raise ConfigError(f"--out {path}: expected a name that ends in {', '.join(writers)}")
    if write is write_parquet and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"--out {path}: .parquet needs pyarrow (pip install pyarrow); .npy and .jsonl do not")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")

    def run(rows: Sequence[Row]) -> None:
        try:
            write(path, rows)
        except OSError as problem:
            raise ConfigError(f"cannot write {path}: {problem.strerror or problem}") from problem

    return run


def names_beside(path: Path) -> Path:
    """Where the names of a .npy file's rows are written."""
    return path.with_suffix(".names.json")


def described(path: Path, rows: Sequence[Row]) -> str:
    """What was written, in words."""
    size = f"{len(rows)} vectors of {len(rows[0].vector)} numbers" if rows else "no vectors"
    return f"{path}: {size}" + (f"; their names: {names_beside(path)}" if path.suffix == ".npy" else "")


def write_npy(path: Path, rows: Sequence[Row]) -> None:
    import numpy

    with path.open("wb") as file:
        numpy.save(file, numpy.stack([row.vector for row in rows]) if rows else numpy.zeros((0, 0), "float32"))
    names_beside(path).write_text(json.dumps([row.key() for row in rows], ensure_ascii=False), encoding="utf-8")


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(as_json({**row.key(), "vector": row.vector.tolist()}, ensure_ascii=False) + "\n")


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "file": pyarrow.array([row.key().get("file") for row in rows], pyarrow.string()),
        "text": pyarrow.array([row.key().get("text") for row in rows], pyarrow.string()),
        "vector": pyarrow.array([row.vector for row in rows], pyarrow.list_(pyarrow.float32())),
    }
    parquet.write_table(pyarrow.table(columns), path)
