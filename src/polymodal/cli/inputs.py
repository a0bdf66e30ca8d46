"""What commands accept where they take files: words of the command line -> inputs that open as media or text.

    photo.jpg  ~/photo.jpg  file:///photos/a.jpg     one file
    report.pdf  report.pdf#page=2-4                  every page as a picture, or some of them
    photos/  "photos/**/*.jpg"                       every picture, recording, video or array in a folder; every match
    data:image/png;base64,...   -                    the data itself; standard input
    https://...                                      refused: nothing is downloaded

Nothing is opened here, so that a folder may hold more than memory does; `open_all` opens a few at once.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polymodal.data.limits import own_limits
from polymodal.data.media import Image, Media, Text
from polymodal.data.source import CONTAINER_FORMATS, HEAD_BYTES, SOUND_FORMATS, decode_base64, sniff
from polymodal.errors import MediaError
from polymodal.files import open_regular

STDIN = "-"
PATTERN = re.compile(r"[*?\[]")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:")
PAGES = re.compile(r"(?P<file>.+\.pdf)#page=(?P<first>[0-9]{1,6})(?:-(?P<last>[0-9]{1,6}))?", re.IGNORECASE | re.DOTALL)
DATA_URL = re.compile(r"data:(?P<type>[\w.+-]*/?[\w.+-]*)(?:;[\w=.+-]+?)*?(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input.  name: what messages and JSON call it.  source: a file of this machine, its bytes, or a URL."""

    name: str
    source: str | Path | bytes

    def record(self) -> Media | Text:
        """The media or text, not decoded.  Raises MediaError."""
        import polymodal as pm

        return pm.media(self.source)

    def open(self) -> Media | Text:
        """The media or text, a picture decoded.  Raises MediaError."""
        found = self.record()
        if isinstance(found, Image):
            _ = found.picture
        return found


@dataclass(frozen=True, kw_only=True)
class Page(Input):
    """One page of a PDF.  number: from 1 on."""

    number: int

    def record(self) -> Media | Text:
        """The page as a picture.  Raises MediaError."""
        from polymodal.data.pdf import read_page

        assert isinstance(self.source, Path)
        return Image(read_page(self.source, self.number, own_limits()), own_limits())


def expand(words: Iterable[str], sound: bool = False) -> list[Input]:
    """The inputs that the words stand for, in order; of a folder, with `sound`, only files that may hold sound.

    Raises MediaError for a folder or pattern without any.
    """
    return [each for word in words for each in inputs_of(word, sound)]


def inputs_of(word: str, sound: bool = False) -> list[Input]:
    """The inputs of one word: several for a folder or a pattern."""
    if word == STDIN:
        return [Input(name=STDIN, source=read_stdin())]
    if word.startswith("data:"):
        return [Input(name=f"{word[:32]}...", source=decode_data_url(word))]
    if word.startswith("file:"):
        word = urllib.request.url2pathname(urllib.parse.urlsplit(word).path)
    path = expanded(word)
    if exists(path):
        return files_in(path, sound) if path.is_dir() else pages_of(word, path) or [Input(name=word, source=path)]
    if (asked := PAGES.fullmatch(word)) and exists(expanded(asked["file"])):
        first, last = int(asked["first"]), int(asked["last"] or asked["first"])
        return pages_of(asked["file"], expanded(asked["file"]), first, last)
    if SCHEME.match(word):
        return [Input(name=word, source=word)]  # opening it says why not
    if PATTERN.search(word):
        return matches(str(path))
    return [Input(name=word, source=path)]


def pages_of(word: str, path: Path, first: int = 1, last: int | None = None) -> list[Input]:
    """The pages of a PDF, all or from `first` to `last`; none for any other file.

    Raises MediaError for pages that are not there, a damaged file, and where nothing that reads PDFs is installed.
    """
    from polymodal.data.pdf import is_pdf, page_count

    if not is_pdf(path, own_limits()):
        return []
    count = page_count(path, own_limits())
    last = count if last is None else last
    if not 1 <= first <= last <= count:
        raise MediaError(f"{word}#page={first}-{last}: expected pages from 1 to {count}, the first one first")
    return [Page(name=f"{word}#page={number}", source=path, number=number) for number in range(first, last + 1)]


def stands_for_several(word: str) -> bool:
    """Whether a word is a folder or a pattern."""
    path = expanded(word)
    if exists(path):
        return path.is_dir()
    return bool(PATTERN.search(word)) and not SCHEME.match(word)


def is_input(word: str) -> bool:
    """Whether a word that may be a label names an input that is there (a URL counts, to be refused as one)."""
    if word == STDIN or word.startswith(("data:", "file:")) or re.match(r"https?://", word):
        return True
    if (asked := PAGES.fullmatch(word)) and exists(expanded(asked["file"])):
        return True
    return exists(expanded(word)) or (bool(PATTERN.search(word)) and bool(glob.glob(word, recursive=True)))


def expanded(word: str) -> Path:
    """A path whose "~" is the home folder; as it is where there is no such user."""
    return Path(os.path.expanduser(word))


def exists(path: Path) -> bool:
    """Whether there is a file or folder; text too long for a file name is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def files_in(folder: Path, sound: bool = False) -> list[Input]:
    """The media in a folder and its sub-folders, by content; hidden files, texts and all others are left out."""
    shown = [path for path in sorted(folder.rglob("*")) if not is_hidden(path.relative_to(folder))]
    found = [path for path in shown if is_media(path, sound)]
    if not found:
        kinds = "recordings or videos" if sound else "pictures, recordings or videos; give text files by name"
        raise MediaError(f"the folder {folder} holds no {kinds}")
    return [Input(name=str(path), source=path) for path in found]


def matches(pattern: str) -> list[Input]:
    """The files that a pattern matches; `**` matches any depth."""
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not found:
        raise MediaError(f"no file matches {pattern}")
    return [Input(name=str(path), source=path) for path in found]


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def is_media(path: Path, sound: bool = False) -> bool:
    """Whether a file begins as a picture, recording, video or array does; with `sound`, a recording or video."""
    try:
        with open_regular(path, None, MediaError) as file:
            format_name = sniff(file.read(HEAD_BYTES))
    except (MediaError, OSError):  # a folder or pipe, or not ours to read
        return False
    return format_name in SOUND_FORMATS | CONTAINER_FORMATS if sound else format_name not in (None, "text")


def read_stdin() -> bytes:
    """Standard input to its end.  Raises MediaError when it is a terminal or more than the limit of a file."""
    if sys.stdin.isatty():
        raise MediaError("- means standard input, but nothing is piped in; as in: cat photo.jpg | polymodal ask - ...")
    limit = own_limits().bytes
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise MediaError(f"standard input is larger than {limit:,} bytes, the limit of a file (Limits.bytes)")
    if not data:
        raise MediaError("standard input is empty")
    return data


def decode_data_url(url: str) -> bytes:
    """The data of a `data:` URL, in base64 or percent-encoded.  Raises MediaError."""
    found = DATA_URL.fullmatch(url)
    if found is None:
        raise MediaError(f"{url[:32]}...: expected data:TYPE;base64,DATA")
    if not found["base64"]:
        return urllib.parse.unquote_to_bytes(found["data"])
    try:
        return decode_base64(urllib.parse.unquote_to_bytes(found["data"]))
    except ValueError:
        raise MediaError(f"{url[:32]}...: its data is not valid base64") from None


def open_all(inputs: Sequence[Input]) -> list[Media | Text]:
    """All inputs opened: a bad one is found before a model is loaded."""
    return [each.open() for each in inputs]
