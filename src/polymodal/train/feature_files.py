"""A file of features -> its samples: `.pkl` of MMSA and conv-emotion, `.npz`, `.csv`.

    open_features("unaligned_50.pkl", "train") -> FeatureSet (data/datasets/features.py)

.npz    arrays by the names of MMSA's tables, `split` [N] or "train/text", "valid/text", ...
.csv    a row a step: id, split, label (or M, T, A, V), raw_text, and columns text_0 ... text_299, audio_0 ..., vision_0
        ...; rows of one id in a row are one sequence; a modality whose cells are empty has ended
No pickle is executed (weights/array_pickle.py).
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.datasets.features import LABELS, MODALITIES, RENAMED, SPLITS, FeatureSet, feature_set
from polymodal.errors import ConfigError
from polymodal.files import open_regular
from polymodal.weights.array_pickle import read_pickle
from polymodal.weights.limits import weights_limits

SUFFIXES = (".pkl", ".p", ".npz", ".csv")
_NAMES = (*MODALITIES, *(old for old, new in RENAMED.items() if new in MODALITIES))
_COLUMN = re.compile(rf"^({'|'.join(_NAMES)})_(\d+)$")


def open_features(path: str | Path, split: str | None = None) -> FeatureSet:
    """The samples of a file, or of the one feature file in a folder.  split: "train", "valid", "test"; None: all.

    Raises ConfigError, naming file, modality and sample, for what is missing, damaged or does not fit.
    """
    path = file_of(Path(path))
    suffix = path.suffix.lower()
    if split is not None and split not in SPLITS:
        raise ConfigError(f"split {split!r} is not known; expected {', '.join(SPLITS)}")
    if suffix in (".pkl", ".p"):
        return feature_set(read_pickle(path), split, path.name)
    if suffix == ".npz":
        return feature_set(read_npz(path), split, path.name)
    if suffix == ".csv":
        return feature_set(read_csv(path), split, path.name)
    raise ConfigError(f"{path} is of no known kind of features; expected {', '.join(SUFFIXES)}")


def file_of(path: Path) -> Path:
    """The file itself, or the only feature file of a folder."""
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"there is no file {path}; expected features in {', '.join(SUFFIXES)}")
        return path
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    if len(found) != 1:
        listed = ", ".join(each.name for each in found[:4]) or "none"
        raise ConfigError(
            f"{path} must hold one file of features ({', '.join(SUFFIXES)}), found {listed}; name the file"
        )
    return found[0]


def read_npz(path: Path) -> Mapping[str, Any]:
    """The arrays of an archive, by split where their names say it."""
    open_regular(path, error=ConfigError).close()
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(each.file_size for each in archive.infolist())
        if size > weights_limits().bytes_of(path.stat().st_size):
            raise ConfigError(f"{path} unpacks to {size:,} bytes, more than the limit for a file of its size")
        with np.load(path, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as problem:
        raise ConfigError(f"{path} is damaged, or no .npz of plain arrays: {str(problem)[:120]}") from problem
    whole: dict[str, Any] = {}
    for name, values in arrays.items():
        split, mark, rest = name.partition("/")
        if mark and split in SPLITS:
            whole.setdefault(split, {})[rest] = values
        else:
            whole[name] = values
    return whole


def read_csv(path: Path) -> dict[str, Any]:
    """The rows of a table as padded arrays with lengths."""
    with open_regular(path, error=ConfigError) as raw:
        try:
            rows = list(csv.DictReader(raw.read().decode("utf-8-sig").splitlines()))
        except (csv.Error, UnicodeDecodeError) as problem:
            raise ConfigError(f"{path} is damaged: {problem}") from problem
    if not rows:
        raise ConfigError(f"{path} holds no rows")
    columns = _columns(path, rows[0])
    sequences: list[list[dict[str, str]]] = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ConfigError(f"{path}:{number} has another number of cells than the first line has columns")
        same = sequences and "id" in row and sequences[-1][0]["id"] == row["id"]
        sequences[-1].append(row) if same else sequences.append([row])
    table: dict[str, Any] = {}
    for modality, names in columns.items():
        table |= _padded(path, modality, names, sequences)
    for name in ("id", "split", "raw_text", *LABELS, "label"):
        if name in rows[0]:
            cells = [sequence[0][name] for sequence in sequences]
            table[name] = [_number(path, name, cell) for cell in cells] if name in (*LABELS, "label") else cells
    return table


def _columns(path: Path, row: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for name in row:
        if match := _COLUMN.match(name or ""):
            found.setdefault(RENAMED.get(match[1], match[1]), []).append((int(match[2]), name))
    if not found:
        raise ConfigError(
            f"{path} has the columns {', '.join(list(row)[:6])}; expected features as text_0, text_1, ..."
        )
    return {modality: [name for _, name in sorted(pairs)] for modality, pairs in found.items()}


def _padded(path: Path, modality: str, names: list[str], sequences: list[list[dict[str, str]]]) -> dict[str, Any]:
    """The steps of a modality, [N, T, F], and how many are real."""
    steps = [[row for row in sequence if any(row[name] for name in names)] for sequence in sequences]
    lengths = np.array([len(each) for each in steps])
    if not lengths.all():
        sample = sequences[int(lengths.argmin())][0].get("id", str(int(lengths.argmin())))
        raise ConfigError(f"{path}: sample {sample} has no {modality}; every sample needs one step at least")
    values = np.zeros((len(steps), int(lengths.max()), len(names)), np.float32)
    for i, rows in enumerate(steps):
        values[i, : len(rows)] = [[_number(path, name, row[name]) for name in names] for row in rows]
    return {modality: values, f"{modality}_lengths": lengths}


def _number(path: Path, name: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ConfigError(f"{path}: column {name}: expected a number, found {cell!r:.40}") from None
