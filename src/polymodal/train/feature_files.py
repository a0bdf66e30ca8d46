"""A file of features -> its samples: `.pkl` of MMSA and conv-emotion, `.npz`, `.csv`.

    open_features("unaligned_50.pkl", "train") -> FeatureSet (data/datasets/features.py)
    FeatureDataset("unaligned_50.pkl@train")   the same as a data set of the trainer; @SPLIT may be left out

.npz    arrays by the names of MMSA's tables, `split` [N] or "train/text", "valid/text", ...
.csv    a row a step: id, split, label (or M, T, A, V), raw_text, and columns text_0 ... text_299, audio_0 ..., vision_0
        ...; rows of one id in a row are one sequence; a modality whose cells are empty has ended
No pickle is executed (weights/array_pickle.py).
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from polymodal.data.datasets.features import LABELS, MODALITIES, RENAMED, SPLITS, FeatureSet, feature_set
from polymodal.data.datasets.sample import Dataset, Sample
from polymodal.data.media import Array
from polymodal.errors import ConfigError
from polymodal.files import open_regular
from polymodal.weights.array_pickle import read_pickle
from polymodal.weights.limits import weights_limits

SUFFIXES = (".pkl", ".p", ".npz", ".csv")
_NAMES = (*MODALITIES, *(old for old, new in RENAMED.items() if new in MODALITIES))
_COLUMN = re.compile(rf"^({'|'.join(_NAMES)})_(\d+)$")


class FeatureDataset(Dataset):
    """The samples of one split as the trainer takes them.

    A sample's labels are by name ("M", "T", "A", "V", "utterances"); beside its features stand `index`, its place, and
    where the file has them `text_bert` [3, T] and `speakers` [T], numbers in the order in which people speak first.
    """

    kind: ClassVar[str] = "features"

    def __init__(self, address: Path, split: str | None = None) -> None:
        """split: the one that is taken where the address names none, and the file has it.  Raises ConfigError."""
        file, named = split_of(address)
        super().__init__(Path(f"{file}@{named}") if named else file)
        self.file = file_of(file)
        self.features = open_features(self.file, named) if named else _of_file(self.file, split)

    def __len__(self) -> int:
        return len(self.features)

    def name(self, index: int) -> str:
        return f"{self.file.name}: {self.features[index].name}"

    def files(self) -> Iterable[Path]:
        return (self.file,)

    def sample(self, index: int) -> Sample:
        found = self.features[index]
        beside: dict[str, Any] = {"index": np.array([index])}
        if found.ids is not None:
            beside["text_bert"] = found.ids
        if found.speakers:
            order = list(dict.fromkeys(found.speakers))
            beside["speakers"] = np.array([order.index(each) for each in found.speakers])
        return Sample(
            name=self.name(index),
            text=found.text,
            features={name: Array(values, modality=name) for name, values in found.features.items()},
            labels=dict(found.labels) or None,
            arrays={name: Array(values, modality=name) for name, values in beside.items()},
        )


def split_of(address: Path) -> tuple[Path, str | None]:
    """The file and the split of "features.pkl@test"."""
    name, mark, split = str(address).rpartition("@")
    return (Path(name), split) if mark and split in SPLITS else (address, None)


def is_features(address: Path) -> bool:
    """Whether an address is of features: by its suffix, a table by its columns, a folder by the one file in it."""
    path, _ = split_of(address)
    if path.is_dir():
        kept = [each for each in path.iterdir() if each.suffix.lower() in SUFFIXES]
        return len(kept) == 1 and is_features(kept[0])
    if path.suffix.lower() == ".csv" and path.is_file():
        with open_regular(path, error=ConfigError) as file:
            head = file.readline(1 << 20).decode("utf-8-sig", "replace")
        return any(_COLUMN.match(name.strip()) for name in head.split(","))
    return path.suffix.lower() in SUFFIXES[:-1]


def _of_file(path: Path, split: str | None) -> FeatureSet:
    """The split where the file has splits, else all of it."""
    whole = read_file(path)
    named = isinstance(whole, list | tuple) or "split" in whole or any(name in whole for name in SPLITS)
    return feature_set(whole, split if named else None, path.name)


def open_features(path: str | Path, split: str | None = None) -> FeatureSet:
    """The samples of a file, or of the one feature file in a folder.  split: "train", "valid", "test"; None: all.

    Raises ConfigError, naming file, modality and sample, for what is missing, damaged or does not fit.
    """
    path = file_of(Path(path))
    if split is not None and split not in SPLITS:
        raise ConfigError(f"split {split!r} is not known; expected {', '.join(SPLITS)}")
    return feature_set(read_file(path), split, path.name)


def read_file(path: Path) -> Any:
    """What a file holds: a table of arrays, tables by split, or the parts of dialogues."""
    readers: Mapping[str, Callable[[Path], Any]] = {".pkl": read_pickle, ".p": read_pickle, ".npz": read_npz,
                                                    ".csv": read_csv}  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is not None:
        return reader(path)
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
