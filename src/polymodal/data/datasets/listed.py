"""Data files that list their samples: .jsonl, .json (an array), .csv and .tsv, .parquet.

Opening one notes at which byte each sample begins (8 bytes a sample); reading one reads those bytes alone, so that a
file of any length costs the same memory, and workers that were forked share it.
Traps: a quoted cell of a .csv may hold line ends; an array is cut at its own commas alone, never inside a string.
"""

from __future__ import annotations

import csv
import io
import mmap
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from polymodal.data.datasets.records import sample_of
from polymodal.data.datasets.sample import Dataset, Sample
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.files import open_regular, parse_json

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
LONGEST = 1 << 26  # bytes of one sample


class Media:
    """Finds what a record names: bytes as they are, a path relative to `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, value: Any) -> Any:
        """A path or bytes.  Raises MediaError for a file that is not there and for what names none."""
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):  # as `datasets` stores media
            return value["bytes"]
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            value = value["path"]
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise MediaError(f"a medium is {type(value).__name__}; expected a path or bytes")
        path = self.root / value.removeprefix("file://")
        if not path.exists():
            raise MediaError(f"there is no file {path}; --media-root says where the media are")
        return path


class ListedSamples(Dataset):
    """Samples that lie in one file one after another.  root: what paths in it are relative to; None: its folder."""

    def __init__(self, path: Path, root: Path | None = None, question: str = "") -> None:
        super().__init__(path)
        self.open_media = Media(path.parent if root is None else root)
        self.question = question
        with open_regular(path, error=ConfigError) as file:
            self.starts, self.ends = self._spans(file)
        if not self.starts:
            raise ConfigError(f"{path} holds no samples")

    def __len__(self) -> int:
        return len(self.starts)

    def sample(self, index: int) -> Sample:
        return sample_of(self.record(index), self.name(index), self.open_media, self.question)

    def record(self, index: int) -> Any:
        """What the file says of one sample.  Raises PromptError, naming it, where that is damaged."""
        return self._record(self._bytes(index, self.name(index)), self.name(index))

    def _bytes(self, index: int, name: str) -> bytes:
        length = self.ends[index] - self.starts[index]
        if length > LONGEST:
            raise PromptError(f"{name} has {length:,} bytes; a sample has at most {LONGEST:,}")
        with open_regular(self.path, error=ConfigError) as file:
            file.seek(self.starts[index])
            return file.read(length)

    def _spans(self, file: Any) -> tuple[array[int], array[int]]:
        raise NotImplementedError

    def _record(self, data: bytes, name: str) -> Any:
        return parse_json(data, name, PromptError)


class JSONLines(ListedSamples):
    """One JSON object a line; empty lines count nothing."""

    kind: ClassVar[str] = "JSON lines"

    def _spans(self, file: Any) -> tuple[array[int], array[int]]:
        starts, ends, at = array("q"), array("q"), 0
        for line in file:
            if line.strip():
                starts.append(at)
                ends.append(at + len(line))
            at += len(line)
        return starts, ends


class JSONArray(ListedSamples):
    """One JSON array of objects, as LLaVA and ShareGPT publish their data."""

    kind: ClassVar[str] = "JSON array"

    def _spans(self, file: Any) -> tuple[array[int], array[int]]:
        starts, ends = array("q"), array("q")
        if not os.fstat(file.fileno()).st_size:
            return starts, ends
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            depth, start = 0, -1
            for token in TOKEN.finditer(text):
                sign = token[0][:1]
                if sign in b"{[":
                    depth += 1
                    if depth == 1 and sign == b"{":
                        raise ConfigError(f"{self.path} is one JSON object; expected an array of samples, or .jsonl")
                    if depth == 2:
                        start = token.start()
                elif sign in b"}]":
                    depth -= 1
                    if depth == 1:
                        starts.append(start)
                        ends.append(token.end())
            if depth:
                raise ConfigError(f"{self.path} is damaged: it ends inside a sample")
        return starts, ends


class Table(ListedSamples):
    """Rows of a .csv or .tsv file whose first row names the columns."""

    kind: ClassVar[str] = "table"

    def _spans(self, file: Any) -> tuple[array[int], array[int]]:
        csv.field_size_limit(LONGEST)
        starts, ends, at = array("q"), array("q"), [0]

        def lines() -> Iterator[str]:
            for line in file:
                at[0] += len(line)
                yield line.decode("utf-8-sig" if at[0] == len(line) else "utf-8")

        begin = 0
        self.delimiter = "\t" if self.path.suffix == ".tsv" else ","
        try:
            for row in csv.reader(lines(), delimiter=self.delimiter):
                if begin == 0:
                    self.columns = row
                elif row:
                    starts.append(begin)
                    ends.append(at[0])
                begin = at[0]
        except (csv.Error, UnicodeDecodeError) as problem:
            raise ConfigError(f"{self.path} is damaged near byte {at[0]:,}: {problem}") from problem
        return starts, ends

    def _record(self, data: bytes, name: str) -> Any:
        row = next(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=self.delimiter))
        if len(row) != len(self.columns):
            raise PromptError(f"{name} has {len(row)} cells for {len(self.columns)} columns")
        return dict(zip(self.columns, row, strict=True))


class Parquet(Dataset):
    """Rows of a .parquet file, its media as bytes or paths; needs pyarrow."""

    kind: ClassVar[str] = "parquet"

    def __init__(self, path: Path, root: Path | None = None, question: str = "") -> None:
        super().__init__(path)
        try:
            from pyarrow import ArrowInvalid
            from pyarrow.parquet import ParquetFile
        except ImportError as problem:
            raise ConfigError(f"{path}: .parquet files need pyarrow; pip install pyarrow") from problem
        open_regular(path, error=ConfigError).close()
        try:
            groups = ParquetFile(path).metadata
        except (ArrowInvalid, OSError) as problem:
            raise ConfigError(f"{path} is no parquet file: {str(problem).splitlines()[0]}") from problem
        self.open_media = Media(path.parent if root is None else root)
        self.question = question
        self.ends = [0]
        for number in range(groups.num_row_groups):
            self.ends.append(self.ends[-1] + groups.row_group(number).num_rows)
        self.held: tuple[int, Any] = (-1, None)  # the group read last: neighbours are often asked for together
        if not len(self):
            raise ConfigError(f"{path} holds no samples")

    def __len__(self) -> int:
        return self.ends[-1]

    def sample(self, index: int) -> Sample:
        return sample_of(self.record(index), self.name(index), self.open_media, self.question)

    def record(self, index: int) -> Any:
        """As for a ListedSamples."""
        from bisect import bisect_right

        from pyarrow.parquet import ParquetFile

        group = bisect_right(self.ends, index) - 1
        number, rows = self.held
        if number != group:
            rows = ParquetFile(self.path).read_row_group(group)
            self.held = (group, rows)
        (record,) = rows.slice(index - self.ends[group], 1).to_pylist()
        return record
