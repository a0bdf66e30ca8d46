"""Data that lies in files of its own: folders of media with captions, WebDataset archives.

photos/1.jpg, photos/1.txt        a caption beside each        photos/cat/1.jpg     its folder's name is the label
photos/1.jpg                      pictures alone, where none has a caption or a label
photos/metadata.jsonl             {"file_name": "1.jpg", "text": "..."}             as `datasets` has it
shard-0001.tar                    1.jpg, 1.txt (or 1.json): what shares a name is one sample (WebDataset); 1.0.jpg,
                                  1.1.jpg are two pictures of it
shards/*.tar                      a folder of archives: all of them
"""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from polymodal.data.datasets.listed import LONGEST, JSONLines, Media, Table
from polymodal.data.datasets.records import sample_of
from polymodal.data.datasets.sample import Dataset, Sample
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.files import open_regular, parse_json, read_bytes

KINDS = {
    "image": ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "avif"),
    "audio": ("wav", "flac", "mp3", "ogg", "m4a", "opus", "aac"),
    "video": ("mp4", "webm", "mkv", "mov", "avi"),
}
KIND = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes}
TEXTS = ("txt", "caption", "text")
LISTS = ("metadata.jsonl", "metadata.csv")


class Folder(Dataset):
    """Media of a folder and below, each with a text of its own name beside it, or labelled by the folder it is in."""

    kind: ClassVar[str] = "folder"

    def __init__(self, path: Path, root: Path | None = None, question: str = "") -> None:
        super().__init__(path)
        self.question = question
        self.items: list[tuple[str, str | None]] = []  # of the medium, of its text; relative to the folder
        bare: list[tuple[str, str | None]] = []
        for folder, folders, names in os.walk(path):
            folders.sort()
            here = Path(folder).relative_to(path)
            present = set(names)
            for name in sorted(names):
                stem, _, suffix = name.rpartition(".")
                if suffix.lower() in KIND:
                    text = next((f"{stem}.{each}" for each in TEXTS if f"{stem}.{each}" in present), None)
                    told = text is not None or here != Path(".")
                    (self.items if told else bare).append(
                        (str(here / name), None if text is None else str(here / text))
                    )
        self.items = self.items or bare
        if not self.items:
            raise ConfigError(
                f"{path} holds no samples; expected media with a .txt of the same name, folders named by label, "
                f"{' or '.join(LISTS)}"
            )

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        medium, text = self.items[index]
        kind = KIND[medium.rpartition(".")[2].lower()]
        record = {kind: str(medium)}
        if text is not None:
            record["caption"] = read_text(read_bytes(self.path / text, LONGEST, PromptError), text)
        elif label := Path(medium).parent.name.replace("_", " "):
            record["label"] = label
        return sample_of(record, f"{self.path.name}/{medium}", Media(self.path), self.question)

    def manifest(self) -> dict[str, Any]:
        """Of names, sizes and texts: media may be too many to be read before a run."""
        import hashlib

        digest, size = hashlib.sha256(), 0
        for medium, text in self.items:
            bytes_of = (self.path / medium).stat().st_size
            digest.update(f"{medium}\0{bytes_of}\0".encode())
            if text is not None:
                digest.update(read_bytes(self.path / text, LONGEST, PromptError))
            size += bytes_of
        about = {"path": str(self.path.absolute()), "kind": self.kind, "samples": len(self), "bytes": size}
        return {**about, "sha256": digest.hexdigest()}


def listed_folder(path: Path, root: Path | None, question: str) -> Dataset | None:
    """A folder whose media are listed in a metadata file; None where there is none."""
    if (path / LISTS[0]).is_file():
        return _Listed(JSONLines(path / LISTS[0], root, question))
    return _Listed(Table(path / LISTS[1], root, question)) if (path / LISTS[1]).is_file() else None


class _Listed(Dataset):
    """The `file_name` of each row is a medium, whichever kind it is."""

    kind: ClassVar[str] = "listed folder"

    def __init__(self, rows: JSONLines | Table) -> None:
        super().__init__(rows.path)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> Sample:
        name = f"{self.path.parent.name}/{self.path.name}:{index + 1}"
        record = dict(self.rows._record(self.rows._bytes(index, name), name))
        file = record.pop("file_name", None)
        if isinstance(file, str):
            kind = KIND.get(file.rpartition(".")[2].lower())
            if kind is None:
                raise MediaError(f"{name}: {file} is of no known kind; expected {', '.join(sorted(KIND))}")
            record[kind] = file
        return sample_of(record, name, self.rows.open_media, self.rows.question)


class TarSamples(Dataset):
    """A WebDataset archive, uncompressed: where each member lies is noted, a sample is read from there."""

    kind: ClassVar[str] = "WebDataset archive"

    def __init__(self, path: Path, root: Path | None = None, question: str = "") -> None:
        super().__init__(path)
        self.question = question
        self.groups: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(fileobj=open_regular(path, error=ConfigError), mode="r:") as archive:
                for member in archive:
                    if member.isreg():
                        folder, _, name = member.name.rpartition("/")
                        stem, _, suffix = name.partition(".")
                        key = f"{folder}/{stem}" if folder else stem
                        self.groups.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
        except tarfile.TarError as problem:
            raise ConfigError(f"{path} is no uncompressed tar archive: {problem}") from problem
        self.keys = [key for key, members in self.groups.items() if "json" in members or set(TEXTS) & set(members)]
        if not self.keys:
            raise ConfigError(f"{path} holds no samples; expected media with a .txt or .json of the same name")

    def __len__(self) -> int:
        return len(self.keys)

    def sample(self, index: int) -> Sample:
        key = self.keys[index]
        members, name = self.groups[key], f"{self.path.name}/{key}"
        record: dict[str, Any] = {}
        if "json" in members:
            found = parse_json(self._read(members["json"], name), name, PromptError)
            record = dict(found) if isinstance(found, dict) else {"conversations": found}
        for suffix in TEXTS:
            if suffix in members:
                record["caption"] = read_text(self._read(members[suffix], name), name)
        media: dict[str, list[bytes]] = {}
        for suffix in sorted(members, key=lambda each: [int(x) if x.isdigit() else -1 for x in each.split(".")]):
            if (kind := KIND.get(suffix.rpartition(".")[2])) is not None:
                media.setdefault(kind, []).append(self._read(members[suffix], name))
        record |= {kind: items[0] if len(items) == 1 else items for kind, items in media.items()}
        return sample_of(record, name, Media(self.path.parent), self.question)

    def _read(self, place: tuple[int, int], name: str) -> bytes:
        start, size = place
        if size > LONGEST:
            raise MediaError(f"{name} has a member of {size:,} bytes; at most {LONGEST:,} are read")
        with open_regular(self.path, error=ConfigError) as file:
            file.seek(start)
            return file.read(size)


class Shards(Dataset):
    """The samples of all archives of a folder, in the order of their names."""

    kind: ClassVar[str] = "folder of WebDataset archives"

    def __init__(self, path: Path, archives: Sequence[Path], question: str = "") -> None:
        super().__init__(path)
        self.parts = [TarSamples(each, None, question) for each in archives]
        self.ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    def files(self) -> Iterable[Path]:
        return [part.path for part in self.parts]

    def sample(self, index: int) -> Sample:
        part = bisect_right(self.ends, index)
        return self.parts[part].sample(index - (self.ends[part - 1] if part else 0))


def read_text(data: bytes, name: str) -> str:
    """The text of a caption file.  Raises PromptError for what is not UTF-8."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as problem:
        raise PromptError(f"{name} is not UTF-8 text") from problem
