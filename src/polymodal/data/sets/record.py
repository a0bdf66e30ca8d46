"""What a prepared set is made of: the packages it comes in, and the items that a reader finds in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Content = Path | Callable[[], bytes]
"""A file of an unpacked package, or bytes that are made when they are wanted."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One archive of a registry; sha256 and size are the archive's.

    members: how the paths of those that are wanted begin, below the archive's top folder.
    pool: where a Debian mirror keeps the archive.
    """

    kind: Literal["npm", "pypi", "debian"]
    name: str
    version: str
    sha256: str
    size: int
    license: str
    members: tuple[str, ...]
    pool: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.version}"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture or recording.

    key: the concept that it is of: all items of a key fall on one side.  media: field -> (path in the prepared set,
    content).  tables: the records of this item, by the folder of the set that lists them ("" is the set's own);
    each gets `id` and the media.  split: the side that the package itself names, in place of the key's.
    """

    id: str
    key: str
    media: Mapping[str, tuple[str, Content]]
    tables: Mapping[str, Mapping[str, Any]]
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A set by name.  read: the folder that its packages were unpacked in -> its items.

    tasks: what `polymodal evaluate` can measure on it.  key: what the concept of an item is, in words.
    """

    name: str
    summary: str
    packages: tuple[Package, ...]
    read: Callable[[Path], Iterator[Item]]
    key: str
    tasks: tuple[str, ...]

    @property
    def license(self) -> str:
        """The licences of its packages, each once."""
        return ", ".join(dict.fromkeys(package.license for package in self.packages))

    @property
    def size(self) -> int:
        """Bytes that are downloaded."""
        return sum(package.size for package in self.packages)
