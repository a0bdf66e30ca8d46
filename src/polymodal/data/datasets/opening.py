"""A path -> the data set that lies there, by what the file is called and begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from polymodal.data.datasets.collected import Folder, Shards, TarSamples, listed_folder
from polymodal.data.datasets.listed import JSONArray, JSONLines, Parquet, Table
from polymodal.data.datasets.sample import Dataset
from polymodal.errors import ConfigError
from polymodal.files import open_regular

KINDS: Mapping[str, Callable[[Path, Path | None, str], Dataset]] = {
    ".jsonl": JSONLines,
    ".ndjson": JSONLines,
    ".csv": Table,
    ".tsv": Table,
    ".parquet": Parquet,
    ".tar": TarSamples,
}
EXPECTED = "a folder, .json, .jsonl, .csv, .tsv, .parquet or .tar"


def open_dataset(path: Path, root: Path | None = None, question: str = "") -> Dataset:
    """The samples at a path.  root: what paths in them are relative to; None: where the file lies.  question: what is
    asked of media that come with a caption alone.  Raises ConfigError for what is no data set or holds no samples."""
    if root is not None and not root.is_dir():
        raise ConfigError(f"there is no folder {root} for the media")
    if path.is_dir():
        if archives := sorted(path.glob("*.tar")):
            return Shards(path, archives, question)
        return listed_folder(path, root, question) or Folder(path, root, question)
    if not path.exists():
        raise ConfigError(f"there is no data at {path}; expected {EXPECTED}")
    kind = KINDS.get(path.suffix.lower())
    if kind is None and path.suffix.lower() == ".json":
        with open_regular(path, error=ConfigError) as file:
            head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        kind = JSONArray if head.startswith(b"[") else JSONLines
    if kind is None:
        raise ConfigError(f"{path} is of no known kind of data; expected {EXPECTED}")
    return kind(path, root, question)
