"""Emoji as 3D pictures, named in many languages by the Unicode CLDR annotations.

Packages: npm `@lobehub/fluent-emoji-3d` (pictures) and `cldr-annotations-full` (names and key words).
Key: code points joined with "-", without U+FE0F and skin tones.  Pictures with a skin tone are left out: CLDR's basic
annotations name the plain one.  Country flags and keycaps have no basic annotation, so they are not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from polymodal.data.sets.record import Item
from polymodal.errors import MediaError

LANGUAGES = ("ar", "de", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "zh")
TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
Names = dict[str, tuple[str, tuple[str, ...]]]


def read(folder: Path) -> Iterator[Item]:
    """Every plain picture that CLDR names in English.  Raises MediaError where a package is missing."""
    files = sorted(folder.glob("**/assets/*.webp"))
    if not files:
        raise MediaError(f"no pictures below {folder}; expected assets/*.webp")
    names = {language: read_annotations(folder, language) for language in ("en", *LANGUAGES)}
    for path in files:
        if TONES & set(path.stem.split("-")) or (key := code_key(path.stem)) not in names["en"]:
            continue
        tables = {}
        for language, found in names.items():
            if key in found:
                name, keywords = found[key]
                table = "" if language == "en" else f"languages/{language}"
                tables[table] = {"caption": name, "captions": [name], "keywords": list(keywords)}
        yield Item(id=path.stem, key=key, media={"image": (f"pictures/{path.name}", path)}, tables=tables)


def code_key(text: str) -> str:
    """The key of an emoji given as code points ("1F469-1F3FB") or as characters: lower case, no FE0F, no tones."""
    parts = text.lower().split("-") if re.fullmatch(r"[0-9a-fA-F]{2,6}(-[0-9a-fA-F]{2,6})*", text) else points(text)
    return "-".join(part for part in parts if part != "fe0f" and part not in TONES)


def read_annotations(folder: Path, locale: str) -> Names:
    """Key -> (spoken name, key words) of one locale of CLDR.  Raises MediaError where it is missing."""
    path = next(iter(sorted(folder.glob(f"**/annotations/{locale}/annotations.json"))), None)
    if path is None:
        raise MediaError(f"annotations/{locale}/annotations.json is not below {folder}")
    table = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"]
    return {
        "-".join(part for part in points(sign) if part != "fe0f"): (entry["tts"][0], tuple(entry.get("default", ())))
        for sign, entry in table.items()
        if "tts" in entry
    }


def points(text: str) -> list[str]:
    """The code points of a text, in hexadecimal digits."""
    return [f"{ord(sign):x}" for sign in text]
