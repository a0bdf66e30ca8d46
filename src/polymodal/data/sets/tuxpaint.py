"""Tux Paint stamps: cut-out photographs and drawings with a caption in up to 70 languages, many of them read aloud.

Package: Debian `tuxpaint-stamps-default`.  stamps/<folder>/<name>.{png,svg} with <name>.txt: the first line is English,
then `fr.utf8=...` lines; <name>_desc[_fr].ogg are spoken captions.  Key: the normalised English caption.
Traps: how many people speak, and whether a voice is synthetic, is not stated.  A recording counts where the caption is
written in the same language.  Drawings (.svg) need resvg-py; without it they are left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from polymodal.data.sets.record import Item
from polymodal.data.sets.split import normalise
from polymodal.data.sets.svg import svg_bytes
from polymodal.errors import MediaError

_SPOKEN = re.compile(r"_desc(?:_([A-Za-z_]+))?$")
_LEAST = 100  # captions or recordings of a language that has a table of its own


def read(folder: Path) -> Iterator[Item]:
    """Pictures with their captions, then recordings.  Raises MediaError where there are no stamps."""
    root = next(iter(sorted(folder.glob("**/tuxpaint/stamps"))), folder)
    captions = {path: found for path in sorted(root.glob("**/*.txt")) if (found := read_captions(path))}
    if not captions:
        raise MediaError(f"no Tux Paint stamps below {folder}; expected tuxpaint/stamps")
    counted = Counter(language for each in captions.values() for language in each)
    kept = {language for language, count in counted.items() if count >= min(_LEAST, len(captions))}
    for path, texts in captions.items():
        name = path.relative_to(root).with_suffix("").as_posix()
        tables = {_folder(language): {"caption": text, "captions": [text]}
                  for language, text in texts.items() if language in kept}  # fmt: skip
        image = next((p for p in (path.with_suffix(".png"), path.with_suffix(".svg")) if p.exists()), None)
        if image is not None:
            content = image if image.suffix == ".png" else partial(svg_bytes, image)
            media = {"image": (f"pictures/{name}.png", content)}
            yield Item(id=name, key=normalise(texts["en"]), media=media, tables=tables)
    yield from _recordings(root, captions)


def _recordings(root: Path, captions: dict[Path, dict[str, str]]) -> Iterator[Item]:
    for path in sorted(root.glob("**/*_desc*.ogg")):
        match = _SPOKEN.search(path.stem)
        if match is None:
            continue
        written = path.with_name(f"{path.stem[: match.start()]}.txt")
        language, texts = match[1] or "en", captions.get(written, {})
        if language not in texts:
            continue
        name = path.relative_to(root).as_posix()
        record = {"text": texts[language], "language": language,
                  "picture_id": written.relative_to(root).with_suffix("").as_posix()}  # fmt: skip
        yield Item(
            id=name.removesuffix(".ogg"),
            key=normalise(texts["en"]),
            media={"audio": (f"speech/{name}", path)},
            tables={f"{_folder(language)}/speech".lstrip("/"): record},
        )


def _folder(language: str) -> str:
    return "" if language == "en" else f"languages/{language}"


def read_captions(path: Path) -> dict[str, str]:
    """Language -> caption of a stamp's text file; nothing where it has no English one."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    captions = {"en": lines[0].strip()} if lines and lines[0].strip() else {}
    for line in lines[1:]:
        language, sign, text = line.partition("=")
        if sign and captions and text.strip():
            captions.setdefault(language.strip().removesuffix(".utf8"), text.strip())
    return captions
