"""An index of the pictures and sounds of a folder: each content embedded once, found again by a text or by another one.

    folder -> files whose size or time of change is new -> digest -> contents without a vector -> embed -> IndexFile
    query -> embed -> dot product with every vector -> the nearest files

At most `batch_size` items, or PIXELS pixels of them, are decoded at once, so that memory does not grow with the folder.
A batch is kept as soon as it is done; an interrupted update goes on where it stopped.
A file that cannot be read is noted with the reason and not tried again until it changes.  What the model does not embed
(videos, for one that looks at pictures) is counted by modality.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.limits import Limits, own_limits
from polymodal.data.media import Image, Media, Text, guess_media
from polymodal.data.source import HEAD_BYTES, open_source, sniff
from polymodal.errors import ConfigError, MediaError, PolymodalError, PromptError
from polymodal.pipelines.batches import check_batch_size
from polymodal.pipelines.index_file import Entry, IndexFile, State

BATCH = 8  # on a CPU as fast as 32, with a quarter of the activations; less is lost by an interruption
PIXELS = 32_000_000  # decoded at once, 96 MB, and one picture more; the size of anything else is not known beforehand
NAMED_AS_MEDIA = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".wav", ".flac",
     ".mp3", ".ogg", ".m4a", ".mp4", ".mov", ".mkv", ".webm", ".avi")
)  # fmt: skip
"""Endings of names that promise media: with other contents such a file is named, any other is passed by."""
Embed = Callable[[Sequence[Any]], Any]
"""Media and texts -> float32 [N, D], rows of length 1"""
Progress = Callable[[int, int, str], None]
"""files done, files to do, name of the next"""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A file and how near it is to the query, -1 to 1."""

    path: Path
    score: float


@dataclass(kw_only=True)
class Update:
    """What an update found: files in the index, how many of them are new or changed, how many contents were embedded.

    skipped: files that cannot be read, with the reason.  left_out: modality -> files that the model does not embed.
    """

    indexed: int = 0
    changed: int = 0
    embedded: int = 0
    removed: int = 0
    skipped: dict[Path, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Waiting:
    """A file whose content has to be embedded."""

    entry: Entry
    item: Media


class MediaIndex:
    """See the module's text.  file: where the index lies.  owner: what tells the model and its weights from others."""

    def __init__(self, folder: Path, embed: Embed, file: Path, owner: str = "") -> None:
        self.folder = folder
        self.file = file
        self._embed = embed
        self._store = IndexFile(file, owner)

    def update(self, batch_size: int = BATCH, progress: Progress = lambda done, total, name: None) -> Update:
        """Make the index what the folder is now.

        Raises MediaError for what is no folder or holds no media, StorageError for an index that cannot be written,
        ConfigError for one of another owner.
        """
        check_batch_size(batch_size)
        known, listed = self._store.entries(), dict(media_files(self.folder))
        if not listed:
            raise MediaError(f"the folder {self.folder} holds no pictures, recordings or videos")
        new = [path for path, state in listed.items() if path not in known or not same(known[path].state, state)]
        run = _Run(self.folder, self._embed, self._store, batch_size)
        run.digests = {each.digest for each in known.values() if each.digest is not None}
        for done, path in enumerate(new):
            progress(done, len(new), os.fsdecode(path))
            run.add(path, listed[path])
        run.flush()
        progress(len(new), len(new), "")
        gone = known.keys() - listed.keys()
        if gone or new:
            self._store.forget(gone)
        found = self._store.entries().values()
        bad = [each for each in found if each.error and not each.kind]
        return Update(
            indexed=sum(each.digest is not None for each in found),
            changed=len(new),
            embedded=run.embedded,
            removed=len(gone),
            skipped={self.folder / os.fsdecode(each.path): each.error for each in bad},
            left_out=dict(Counter(each.kind for each in found if each.kind)),
        )

    def search(self, query: str | Any, limit: int = 10) -> list[Hit]:
        """The files nearest to a text (a str) or to media, the nearest first; equal ones by name.

        Raises what `embed` raises for the query, ConfigError for a limit below 1.
        """
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ConfigError(f"limit: expected 1 or more, found {limit!r}")
        vector = as_rows(self._embed([Text(query) if isinstance(query, str) else query]))[0]
        best: list[tuple[float, bytes]] = []
        for paths, vectors in self._store.blocks():
            # Lists of equal scores stay in the order of names: heapq keeps the first.
            best = heapq.nsmallest(limit, [*best, *zip((-(vectors @ vector)).tolist(), paths, strict=True)])
        return [Hit(path=self.folder / os.fsdecode(path), score=-negative) for negative, path in best]


class _Run:
    """One update on its way: files that wait for their batch."""

    def __init__(self, folder: Path, embed: Embed, store: IndexFile, batch_size: int) -> None:
        self._folder, self._embed, self._store, self._batch_size = folder, embed, store, batch_size
        self._limits = own_limits()
        self._waiting: list[_Waiting] = []
        self._ready: list[Entry] = []
        self._pixels = 0
        self._refused: dict[str, str] = {}  # modality -> the model's message
        self.digests: set[bytes] = set()  # of contents that have a vector
        self.embedded = 0

    def add(self, path: bytes, state: State) -> None:
        """Take one file; embeds a batch when enough are decoded."""
        file = self._folder / os.fsdecode(path)
        try:
            digest = digest_of(file, self._limits)
            if any(each.entry.digest == digest for each in self._waiting):
                self.flush()  # the other file of this content decides whether it can be embedded
            entry = Entry(path=path, state=state, digest=digest)
            if digest in self.digests:
                self._ready.append(entry)
            else:
                self._open(file, entry)
        except MediaError as problem:
            self._ready.append(Entry(path=path, state=state, error=str(problem)))
        if len(self._waiting) >= self._batch_size or self._pixels >= PIXELS or len(self._ready) >= 1000:
            self.flush()

    def _open(self, file: Path, entry: Entry) -> None:
        item = guess_media(file, self._limits)
        if isinstance(item, Text):
            raise MediaError(f"{file.name} holds plain text although its name says otherwise; is it a failed download?")
        if item.modality in self._refused:
            self._refuse(entry, item.modality, self._refused[item.modality])
            return
        self._pixels += item.picture.width * item.picture.height if isinstance(item, Image) else PIXELS
        self._waiting.append(_Waiting(entry=entry, item=item))

    def flush(self) -> None:
        """Embed what waits and write all that is known."""
        waiting, self._waiting, self._pixels = self._waiting, [], 0
        vectors = []
        for each, vector in zip(waiting, self._vectors(waiting), strict=True):
            if isinstance(vector, PromptError):
                self._refused[each.item.modality] = str(vector)
                self._refuse(each.entry, each.item.modality, str(vector))
            elif isinstance(vector, PolymodalError):
                self._ready.append(Entry(path=each.entry.path, state=each.entry.state, error=str(vector)))
            elif self._is_same(each.entry):
                vectors.append((each.entry.digest or b"", vector))
                self._ready.append(each.entry)
        self.embedded += len(vectors)
        self.digests.update(digest for digest, _ in vectors)
        ready, self._ready = self._ready, []
        if ready:
            self._store.write(ready, vectors)

    def _refuse(self, entry: Entry, modality: str, why: str) -> None:
        self._ready.append(Entry(path=entry.path, state=entry.state, kind=modality or "array", error=why))

    def _vectors(self, waiting: list[_Waiting]) -> list[Any]:
        """A vector for each, or the PolymodalError that it causes."""
        if not waiting:
            return []
        try:
            rows = as_rows(self._embed([each.item for each in waiting]))
        except PolymodalError as problem:  # the fault of one of them, so each is tried alone
            return [problem] if len(waiting) == 1 else [self._vectors([each])[0] for each in waiting]
        return [row if np.isfinite(row).all() else MediaError("its vector is not finite") for row in rows]

    def _is_same(self, entry: Entry) -> bool:
        """Whether a file is still what its digest says: one that changed meanwhile is left to the next update."""
        try:
            now = State.of((self._folder / os.fsdecode(entry.path)).stat())
        except OSError:
            return False
        return now.size == entry.state.size and entry.state.changed in (now.changed, -1)


def as_rows(vectors: Any) -> np.ndarray:
    """A tensor [N, D] of any device as float32 on the host."""
    return vectors.detach().float().cpu().numpy()


def same(noted: State, now: State) -> bool:
    """Whether a file can be taken for unchanged."""
    return noted.changed != -1 and noted == now


def digest_of(file: Path, limits: Limits) -> bytes:
    """SHA-256 of a file's bytes.  Raises MediaError for one that cannot be read, is empty or too large."""
    with open_source(file, limits) as opened:
        return hashlib.file_digest(opened.file, "sha256").digest()  # type: ignore[arg-type]


def media_files(folder: Path) -> Iterator[tuple[bytes, State]]:
    """(path below the folder, state) of files that hold media or are named as such, by name.

    Hidden files and folders, links to folders, and what is no regular file are passed by.  Raises MediaError for what
    is no folder that can be read.
    """
    if not folder.is_dir():
        raise MediaError(f"there is no folder {folder}")

    def complain(problem: OSError) -> None:
        if problem.filename is None or Path(problem.filename) == folder:
            raise MediaError(f"the folder {folder} cannot be read ({problem.strerror})")

    for place, folders, names in os.walk(folder, onerror=complain):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and (state := _media_state(path)) is not None:
                yield os.fsencode(path.relative_to(folder)), state


def _media_state(path: Path) -> State | None:
    """The state of a regular file that is media or is named so; None for any other."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return None
        if path.suffix.lower() in NAMED_AS_MEDIA:
            return State.of(found)
        with path.open("rb") as file:
            return None if sniff(file.read(HEAD_BYTES)) in (None, "text", "npy") else State.of(found)
    except OSError:  # gone since it was listed, or not ours to read
        return None
