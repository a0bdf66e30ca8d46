"""The files of one conversation: what the user gave and what tools made, by names; nothing else can be opened.

    files.give(picture) -> "image/1f0c2d7a.png"           files.open("image/1f0c2d7a.png", "image") -> the picture
    files.keep(edges, "edge", "image/1f0c2d7a.png") -> "image/9b1e_edge_1f0c2d7a_1f0c2d7a.png"

A name is a handle and no path: no disk is touched, so a planner that asks for `/etc/passwd`, a URL or a file that it
made up gets a ToolError that names what there is.  Names have the form of Visual ChatGPT (microsoft/TaskMatrix at
4b7664f, `get_new_image_name`): a new file's name tells its own mark, what made it, its predecessor and its origin.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from polymodal.agents.tools import KINDS, MEDIA, ToolError, listed
from polymodal.data.media import Media

ENDINGS = {"image": "png", "audio": "wav", "video": "mp4"}


class Files:
    """seed: of the marks in names."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._kept: dict[str, Media] = {}
        self._asked: dict[tuple[str, ...], int] = {}
        self.made: list[str] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kept)

    def _mark(self, digits: int, *of: str) -> str:
        """Another one each time, and the same in every run, whichever of two tasks is done first."""
        self._asked[of] = number = self._asked.get(of, 0) + 1
        return hashlib.sha256("\0".join((str(self._seed), str(number), *of)).encode()).hexdigest()[:digits]

    def give(self, item: Media, name: str = "") -> str:
        """A file of the user, under a new name or this one.  Raises ToolError for media of no known kind."""
        kind = media_kind(item)
        name = name or f"{kind}/{self._mark(8, kind)}.{ENDINGS[kind]}"
        self._kept[name] = item
        return name

    def keep(self, item: Media, maker: str, of: str = "") -> str:
        """A file that a tool made, from the file `of` or from words alone."""
        kind, of = media_kind(item), self.known(of)
        follows = of.endswith(f".{ENDINGS[kind]}")  # sound made of a picture has no picture's name
        name = self.give(item, new_name(of, maker, self._mark(4, maker, of)) if follows else "")
        self.made.append(name)
        return name

    def known(self, name: str) -> str:
        """The name as it was given, of one that a planner wrote as a path: /name, or public/name as HuggingGPT has
        it."""
        bare = name.strip().removeprefix("public/").removeprefix("/")
        return bare if bare in self._kept else name.strip()

    def open(self, name: str, kind: str) -> Media:
        """The file of a name.  Raises ToolError for a name that was neither given nor made, or is of another kind."""
        found = self._kept.get(self.known(name))
        if found is None:
            there = listed(each for each in self._kept if media_kind(self._kept[each]) == kind)
            raise ToolError(f"there is no file {name.strip()[:200]!r}: it was neither given nor made; {kind}: {there}")
        if not KINDS[kind](found):
            raise ToolError(f"{name}: expected {kind}, found {media_kind(found)}")
        return found


def media_kind(item: Any) -> str:
    """ "image", "audio" or "video".  Raises ToolError."""
    found = next((kind for kind in MEDIA if KINDS[kind](item)), None)
    if found is None:
        raise ToolError(f"agents take pictures, recordings and videos as files; found {type(item).__name__.lower()}")
    return found


def new_name(name: str, maker: str, mark: str) -> str:
    """`image/{mark}_{maker}_{predecessor}_{origin}.png` of a file's name; maker without underscores, which separate."""
    folder, _, tail = name.rpartition("/")
    parts = tail.split(".")[0].split("_")
    maker = re.sub(r"[^A-Za-z0-9-]", "-", maker) or "made"
    new = f"{mark}_{maker}_{parts[0]}_{parts[-1]}.{tail.rpartition('.')[2]}"
    return f"{folder}/{new}" if folder else new
