"""The file of a media index: what is known of each file of a folder, and a vector for each content, in one SQLite file.

    files    path (bytes, below the folder) -> size, time of change, digest of its content; or why it is left out
    vectors  digest -> float32 [D]
    owner    whose vectors these are: those of two models say nothing about each other

Two files of one content share a vector, and a file that was moved keeps it.  Each batch is one transaction: what was
written before an interruption is there afterwards.
Traps: names are bytes, since a name need not be UTF-8; a time of change that is younger than the clock's steps says
nothing, a later write may get the same one, so it is noted as unknown.
"""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polymodal.errors import ConfigError, StorageError

FORMAT = 1
WAIT_SECONDS = 60  # for another process that is just writing its batch
UNSETTLED_NS = 2_000_000_000  # FAT counts time in steps of two seconds
ROWS = 4096  # vectors in memory at once while all are compared
_TABLES = """
    CREATE TABLE IF NOT EXISTS files
      (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, digest BLOB, kind TEXT, error TEXT) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS vectors (digest BLOB PRIMARY KEY, vector BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS owner (name TEXT);
"""


@dataclass(frozen=True, kw_only=True)
class State:
    """Size in bytes and time of change in ns by which a file is known again; `changed` is -1 when it says nothing."""

    size: int
    changed: int

    @classmethod
    def of(cls, stat: os.stat_result) -> State:
        settled = time.time_ns() - stat.st_mtime_ns > UNSETTLED_NS
        return cls(size=stat.st_size, changed=stat.st_mtime_ns if settled else -1)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file.  path: bytes below the folder.  digest: of its content, None for one that is left out.

    error: why it is left out.  kind: "" where the file is at fault, else the modality that the model does not embed.
    """

    path: bytes
    state: State
    digest: bytes | None = None
    kind: str = ""
    error: str = ""


class IndexFile:
    """See the module's text.  owner: name of the model.  Nothing is written before the first `write`.

    Raises StorageError, ConfigError for a file of another owner.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._owner = owner

    def entries(self) -> dict[bytes, Entry]:
        """All files by path."""
        if not self.path.exists():
            return {}
        with self._open() as db:
            rows = db.execute("SELECT path, size, changed, digest, kind, error FROM files")
            return {
                path: Entry(path=path, state=State(size=size, changed=changed), digest=digest, kind=kind, error=error)
                for path, size, changed, digest, kind, error in rows
            }

    def write(self, entries: Iterable[Entry], vectors: Iterable[tuple[bytes, np.ndarray]] = ()) -> None:
        """Add or replace files and vectors, all or nothing."""
        rows = [(e.path, e.state.size, e.state.changed, e.digest, e.kind, e.error) for e in entries]
        with self._open() as db:
            blobs = [(digest, vector.astype("<f4").tobytes()) for digest, vector in vectors]
            db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", blobs)
            db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)

    def forget(self, paths: Iterable[bytes]) -> None:
        """Remove files, and vectors that no file has any more."""
        with self._open() as db:
            db.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in paths])
            db.execute("DELETE FROM vectors WHERE digest NOT IN (SELECT digest FROM files WHERE digest IS NOT NULL)")

    def blocks(self) -> Iterator[tuple[list[bytes], np.ndarray]]:
        """(paths, vectors float32 [n, D]), n up to ROWS, until all files with a vector were there."""
        if not self.path.exists():
            return
        with self._open() as db:
            found = db.execute("SELECT path, vector FROM files JOIN vectors USING (digest) ORDER BY path")
            while rows := found.fetchmany(ROWS):
                joined = np.frombuffer(b"".join(vector for _, vector in rows), "<f4")
                yield [path for path, _ in rows], joined.reshape(len(rows), -1)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use, so that threads may share the object; commits at its end."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = self._connect()
            try:
                with db:
                    yield db
            finally:
                db.close()
        except (sqlite3.Error, OSError) as problem:
            why = getattr(problem, "strerror", None) or problem
            raise StorageError(
                f"the index {self.path} cannot be used: {why}; remove it to begin anew, or set POLYMODAL_HOME to a "
                "folder of yours on a disk with space"
            ) from problem

    def _connect(self) -> sqlite3.Connection:
        """Opens the file; one that is damaged or of another format is begun anew: it holds nothing but results."""
        db = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
        try:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found == FORMAT:
                self._check_owner(db)
                return db
            why = "of another version" if found else ""
        except sqlite3.OperationalError:  # locked, read-only, no space: not its fault
            db.close()
            raise
        except sqlite3.DatabaseError:
            why = "damaged"
        if why:
            db.close()
            warnings.warn(f"the index {self.path} is {why} and is built anew", stacklevel=2)
            self.path.unlink()
            db = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        with db:
            db.execute("INSERT INTO owner SELECT ? WHERE NOT EXISTS (SELECT * FROM owner)", (self._owner,))
            db.execute(f"PRAGMA user_version = {FORMAT}")
        self._check_owner(db)
        return db

    def _check_owner(self, db: sqlite3.Connection) -> None:
        (owner,) = db.execute("SELECT name FROM owner").fetchone()
        if owner != self._owner:
            db.close()
            raise ConfigError(
                f"the index {self.path} is of another model, or of other weights; name another file, or remove it"
            )
