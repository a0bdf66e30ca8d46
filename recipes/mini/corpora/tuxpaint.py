"""Tux Paint stamps: about 950 cut-out photographs and drawings, each with a caption written by people.

Package: Debian `tuxpaint-stamps-default` (GPL-2).  Layout: usr/share/tuxpaint/stamps/<folder>/<name>.{png,svg,txt},
the first line of the .txt is English.  Key: the normalised English caption.
Traps: some captions are advice or jokes; then the file name is tried as the noun, and a picture without either
is left out.  Photographs and cartoons of one thing share a caption, so they share a side of the split.
"""

from __future__ import annotations

import re
from pathlib import Path

from corpora import caption as words
from corpora import raster
from corpora.lexicon import Lexicon
from corpora.record import Corpus, Picture
from polymodal.data.sets.split import normalise, split_of
from polymodal.errors import MediaError

_KINDS = (
    ("people/body_parts", "body part"), ("people", "person"), ("animals", "animal"), ("clothes", "clothing"),
    ("food", "food"), ("plants", "plant"), ("vehicles", "vehicle"), ("symbols/alphabets", "letter"),
    ("symbols/math/operators", "sign"), ("symbols/math", "number"), ("symbols/faces", "face"), ("town/flags", "flag"),
    ("town/roadsigns", "sign"), ("town/houses", "building"), ("town/monuments", "building"),
    ("hobbies/music", "musical instrument"),
)  # fmt: skip
_PART_OF = re.compile(r"wheel|emblem|number|window|lights?$|decal", re.IGNORECASE)


def open(folder: str | Path, lexicon: Lexicon) -> Corpus:
    """Read the stamps below `folder` (`/` or the place a .deb was unpacked).  Raises MediaError when there are none."""
    root = next(iter(sorted(Path(folder).glob("**/tuxpaint/stamps"))), Path(folder))
    found = [picture for text in sorted(root.glob("**/*.txt")) if (picture := _picture(text, root, lexicon))]
    if not found:
        raise MediaError(f"no Tux Paint stamps below {folder}; unpack the package tuxpaint-stamps-default there")
    return Corpus(name="tuxpaint", pictures=tuple(found), image=lambda picture: raster.open_file(root / picture.path))


def _picture(text: Path, root: Path, lexicon: Lexicon) -> Picture | None:
    image = next((p for p in (text.with_suffix(".png"), text.with_suffix(".svg")) if p.exists()), None)
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    if image is None or not lines or not lines[0].strip():
        return None
    folder = text.parent.relative_to(root).as_posix()
    kind = next((kind for prefix, kind in _KINDS if folder.startswith(prefix)), None)
    short = caption_of(lines[0], text.stem, kind, lexicon)
    if short is None:
        return None
    bare = words.strip_article(short)
    nouns, broader = words.split_nouns(bare, lexicon)
    if kind in ("letter", "number", "sign"):
        nouns, broader = (bare, bare.split(" ", 1)[-1] if kind != "sign" else bare.removesuffix(" sign")), ()
    key = normalise(lines[0])
    cartoon = "cartoon" in folder or image.suffix == ".svg"
    first = short.split()[0]
    if kind == "vehicle" and _PART_OF.search(bare):
        kind = None
    return Picture(
        id=f"tuxpaint/{image.relative_to(root).as_posix()}",
        corpus="tuxpaint",
        style="cartoon" if cartoon else "photo",
        key=key,
        split=split_of(key),
        nouns=nouns,
        broader=broader,
        caption=short,
        category=folder,
        kind=kind or lexicon.kind(nouns[0]),
        count=words.NUMBERS[first] if words.NUMBERS.get(first, 0) > 1 else None,
        path=image.relative_to(root).as_posix(),
    )


def caption_of(line: str, stem: str, kind: str | None, lexicon: Lexicon) -> str | None:
    """A short caption from the written one; else from the file name; else None."""
    short = words.clean_sentence(line)
    if short and lexicon.base(short) and not lexicon.proper(short):
        short = short.lower()
    if short and kind == "number":
        return f"the number {short.lower()}"
    started = short and short.split()[0] in ("the", "our", "a", "an", "some", "two", "three")
    if short and started and not short.startswith("an important"):
        return re.sub(r"^our ", "the ", short)
    if short and kind == "sign":
        short = short.removesuffix(" sign").lower()
        return f"{words.article(short)} {short} sign"
    if short and kind == "face":
        return f"{words.article(short)} {short} face"
    noun = short and lexicon.base(words.head_of(short).split()[-1])
    joke = short and (re.match(r"(say|remember|tux|–)", short, re.IGNORECASE) or " the " in short)
    if short and noun and not joke and (short[0].isupper() or lexicon.base(short.split()[0])):
        return words.phrase(short, lexicon)
    title = words.clean_title(stem, lexicon)
    return words.phrase(title, lexicon) if title else None
