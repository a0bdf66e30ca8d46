"""Open Clip Art Library 0.18: drawings with the titles and key words of their authors.

Packages: Debian `openclipart-png` (the pictures) and `openclipart-svg` (the same drawings; their RDF block holds title,
key words and author).  Key: the normalised title without digits: whole icon themes repeat one.
Traps: links are second copies and are not unpacked; `shapes/stars` is generated and left out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polymodal.data.sets.record import Item
from polymodal.data.sets.split import normalise
from polymodal.errors import MediaError

GENERATED = "shapes/stars"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a drawing says about itself."""

    title: str
    keywords: tuple[str, ...]
    author: str


def read(folder: Path) -> Iterator[Item]:
    """Every picture with a title.  Raises MediaError where a package is missing."""
    png = next(iter(sorted(folder.glob("**/openclipart/png"))), None)
    svg = next(iter(sorted(folder.glob("**/openclipart/svg"))), None)
    if png is None or svg is None:
        raise MediaError(f"openclipart is incomplete below {folder}; expected openclipart/png and openclipart/svg")
    for path in sorted(png.glob("**/*.png")):
        name = path.relative_to(png).with_suffix("").as_posix()
        drawing = svg / f"{name}.svg"
        if name.startswith(GENERATED) or path.is_symlink() or not drawing.exists():
            continue
        entry = read_entry(drawing)
        key = normalise(re.sub(r"\d", "", entry.title))
        if not key:
            continue
        record = {"caption": entry.title, "captions": [entry.title], "keywords": list(entry.keywords)}
        yield Item(id=name, key=key, media={"image": (f"pictures/{name}.png", path)}, tables={"": record})


def read_entry(path: Path) -> Entry:
    """Title, key words and author from the metadata block of an SVG file; missing parts are empty."""
    text = path.read_text(encoding="utf-8", errors="replace")
    block = match.group(0) if (match := re.search(r"<metadata.*?</metadata>", text, re.DOTALL)) else ""
    title = re.search(r"<dc:title>(.*?)</dc:title>", block, re.DOTALL)
    author = re.search(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", block, re.DOTALL)
    keywords = [html.unescape(word).strip().replace("_", " ") for word in re.findall(r"<rdf:li>(.*?)</rdf:li>", block)]
    return Entry(
        title=html.unescape(title.group(1)).strip() if title else "",
        keywords=tuple(word for word in keywords if word and not word.startswith("hash")),
        author=html.unescape(author.group(1)).strip() if author else "",
    )
