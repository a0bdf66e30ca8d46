"""Emoji as pictures in three drawing styles, named by the Unicode CLDR annotations.

Packages: npm `@lobehub/fluent-emoji-3d` (3D, MIT), npm `openmoji` (flat SVG, CC-BY-SA-4.0, and the groups), Debian
`fonts-noto-color-emoji` (bitmaps, OFL), npm `cldr-annotations-full` (names and key words, Unicode-3.0).
Key: code points joined with "-", without U+FE0F and skin tones, so every style and tone of one emoji is on one side.
Traps: OpenMoji and Noto are the unseen drawing styles: their training concepts get split "style", not "train".
       Country flags and keycaps are not in the basic annotations; their names come from OpenMoji's table.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corpora import caption as words
from corpora import raster
from corpora.lexicon import Lexicon
from corpora.record import Corpus, Picture
from polymodal.data.sets.emoji import TONES, code_key, read_annotations
from polymodal.data.sets.split import normalise, split_of
from polymodal.errors import MediaError

_SKIP = frozenset({"alphanum", "geometric", "other-symbol", "gender", "arrow", "hair-style", "skin-tone"})
_KINDS = {
    "face": "face", "cat-face": "animal", "monkey-face": "animal", "hand": "body part", "hands": "body part",
    "body-parts": "body part", "person": "person", "family": "person", "animal": "animal", "plant": "plant",
    "food": "food", "drink": "food", "transport-ground": "vehicle", "transport-water": "vehicle",
    "transport-air": "vehicle", "place-building": "building", "clothing": "clothing",
    "musical-instrument": "musical instrument", "tool": "tool", "country-flag": "flag", "subdivision-flag": "flag",
    "flag": "flag", "zodiac": "sign", "transport-sign": "sign", "warning": "sign", "keycap": "number",
}  # fmt: skip
_FIXED = {
    "milky way": "the Milky Way", "mount fuji": "Mount Fuji", "tokyo tower": "Tokyo Tower", "zzz": "the letters ZZZ",
    "statue of liberty": "the Statue of Liberty", "men’s room": "a men's room", "women’s room": "a women's room",
    "t-rex": "a T-Rex", "mate": "a mate drink",
}  # fmt: skip
_MATH = {
    "plus": "a plus sign", "minus": "a minus sign", "multiply": "a multiplication sign", "divide": "a division sign"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Name:
    """What is known of one emoji: `spoken` is CLDR's short name."""

    spoken: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str


def read_names(cldr: str | Path, openmoji: str | Path) -> dict[str, Name]:
    """Key -> name, for all emoji with an English CLDR name and for flags and keycaps."""
    spoken = read_annotations(Path(cldr), "en")
    found: dict[str, Name] = {}
    for row in json.loads(_member(openmoji, "data/openmoji.json").read_text(encoding="utf-8")):
        key = code_key(row["hexcode"])
        sub, group = row["subgroups"], row["group"]
        flag = group == "flags" or sub == "keycap"
        if group.startswith("extras") or key in found or (key not in spoken and not flag):
            continue
        tts, keywords = spoken.get(key, (row["annotation"], tuple(tag.strip() for tag in row["tags"].split(","))))
        found[key] = Name(spoken=tts, keywords=keywords, group=group, subgroup=sub)
    return found


def translations(cldr: str | Path, locales: tuple[str, ...] = ("it", "fr")) -> dict[str, str]:
    """Foreign emoji name -> English emoji name ("elefante" -> "elephant"), first locale first."""
    english = read_annotations(Path(cldr), "en")
    found: dict[str, str] = {}
    for locale in locales:
        for key, (name, _) in read_annotations(Path(cldr), locale).items():
            if key in english:
                strip = r"^(muso di|testa di|tete de|visage de|faccia di) "
                short = re.sub(strip, "", normalise(name))
                found.setdefault(short, english[key][0].removesuffix(" face"))
    return found


def open_fluent(folder: str | Path, table: dict[str, Name], lexicon: Lexicon, tones: int = 2) -> Corpus:
    """Fluent 3D emoji; of each emoji with skin tones the plain form and at most `tones` others are kept."""
    plain: list[tuple[str, Path]] = []
    toned: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).glob("**/assets/*.webp")):
        found_tones = [part for part in path.stem.split("-") if part in TONES]
        if not found_tones:
            plain.append((code_key(path.stem), path))
        elif len(found_tones) == 1:
            toned.setdefault(code_key(path.stem), []).append(path)
    chosen = list(plain)
    for key, paths in toned.items():  # which tones are kept depends on the concept, so all tones are met
        first = int(hashlib.sha1(key.encode()).hexdigest(), 16)
        chosen += [(key, paths[(first + 2 * step) % len(paths)]) for step in range(min(tones, len(paths)))]
    found = _pictures("fluent", "3d emoji", chosen, table, lexicon)
    return _corpus("fluent", folder, found, raster.open_file)


def open_openmoji(folder: str | Path, table: dict[str, Name], lexicon: Lexicon) -> Corpus:
    """OpenMoji colour drawings, without skin tones: an unseen style."""
    files = sorted(Path(folder).glob("**/color/svg/*.svg"))
    chosen = [(code_key(path.stem), path) for path in files if not TONES & set(path.stem.lower().split("-"))]
    found = _pictures("openmoji", "flat emoji", chosen, table, lexicon)
    return _corpus("openmoji", folder, found, raster.open_file)


def open_noto(folder: str | Path, table: dict[str, Name], lexicon: Lexicon) -> Corpus:
    """Noto colour emoji drawn from the bitmap font at its one size, 109: an unseen style."""
    from PIL import Image, ImageDraw, ImageFont

    font_file = next(iter(sorted(Path(folder).glob("**/NotoColorEmoji.ttf"))), None)
    if font_file is None:
        raise MediaError(f"no NotoColorEmoji.ttf below {folder}; unpack fonts-noto-color-emoji there")
    font = ImageFont.truetype(str(font_file), 109)

    def draw(path: str | Path) -> Image.Image:
        text = "".join(chr(int(part, 16)) for part in Path(path).stem.split("-"))
        image = Image.new("RGBA", (136, 128), (255, 255, 255, 0))
        ImageDraw.Draw(image).text((0, 0), text, font=font, embedded_color=True)
        if image.getbbox() is None or font.getlength(text) > 140:
            raise MediaError(f"the font has no single picture for {path}")
        return image

    chosen = [(key, Path(folder) / f"{key}.glyph") for key in table]
    return _corpus("noto", folder, _pictures("noto", "noto emoji", chosen, table, lexicon), draw)


def caption_of(name: Name, lexicon: Lexicon) -> str | None:
    """A caption from a CLDR short name: "flag: Peru" -> "the flag of Peru", "dog face" -> "a dog"."""
    text = name.spoken.replace("’", "'").replace("“", "").replace("”", "")
    if name.subgroup in _SKIP or text.startswith("Japanese ") or "facing right" in text:
        return None
    if text.startswith(("flag: ", "flag for ")):
        return words.flag_of(text.split(" ", 1)[1].removeprefix("for "))
    if text.startswith("keycap"):
        digit = text.split()[-1]
        numbers = {str(number): word for word, number in words.NUMBERS.items()}
        return f"the number {numbers.get(digit, digit)}" if digit.isalnum() else None
    if name.subgroup == "math":
        return _MATH.get(text)
    if name.subgroup == "zodiac":
        return f"the zodiac sign {text}"
    if (name.subgroup == "time" and "thirty" in text) or "o'clock" in text:
        return f"a clock showing {text}"
    if re.match(r"(person|man|woman|men|women): ", text):
        text = text.replace(": ", " with ").replace("with bald", "with a bald head")
        return f"a {text.replace('with beard', 'with a beard')}"
    if name.subgroup.startswith("animal") and text.endswith(" face"):
        text = text.removesuffix(" face")
    if text.lower() in _FIXED:
        return _FIXED[text.lower()]
    head = words.head_of(text).split()[-1]
    if lexicon.base(head) is None and (lexicon.is_word(head) or head.endswith("ed")) and name.group != "people-body":
        return None  # "foggy", "dizzy", "locked": a mood or a state, not a thing
    return words.phrase(words.inner_articles(text, lexicon), lexicon)


def _pictures(
    corpus: str, style: str, chosen: list[tuple[str, Path]], table: dict[str, Name], lexicon: Lexicon
) -> Iterator[Picture]:
    for key, path in chosen:
        name = table.get(key)
        short = caption_of(name, lexicon) if name else None
        if name is None or short is None:
            continue
        bare = words.strip_article(short)
        nouns, broader = words.split_nouns(bare, lexicon)
        if name.group == "flags" and short.startswith("the flag of"):
            nouns, broader = (bare,), ("flag",)
        elif name.group == "smileys-emotion" or name.subgroup in ("zodiac", "keycap", "time"):
            nouns, broader = (bare,), tuple(n for n in nouns if n != bare)
        spoken = name.spoken.lower()
        exact = dict.fromkeys([*nouns, *([spoken] if ":" not in spoken else [])])
        split = split_of(key)
        kind = next((_KINDS[part] for part in (name.subgroup, *_stems(name.subgroup)) if part in _KINDS), None)
        yield Picture(
            id=f"{corpus}/{path.stem}",
            corpus=corpus,
            style=style,
            key=key,
            split="style" if split == "train" and corpus != "fluent" else split,
            nouns=tuple(exact),
            broader=broader,
            caption=short,
            related=name.keywords,
            category=f"{name.group}/{name.subgroup}",
            kind=kind or (lexicon.kind(nouns[0]) if name.group != "smileys-emotion" else None),
            count=words.NUMBERS.get(bare.split()[0]) if name.subgroup != "time" else None,
            path=path.name,
        )


def _stems(subgroup: str) -> list[str]:
    parts = subgroup.split("-")
    return ["-".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _corpus(name: str, folder: str | Path, found: Iterator[Picture], read: Callable) -> Corpus:
    pictures = tuple(found)
    if not pictures:
        raise MediaError(f"no {name} emoji below {folder}; unpack its package there")
    places = {path.name: path for suffix in ("webp", "svg") for path in Path(folder).glob(f"**/*.{suffix}")}
    return Corpus(name=name, pictures=pictures, image=lambda picture: read(places.get(picture.path, picture.path)))


def _member(folder: str | Path, name: str) -> Path:
    for place in (Path(folder) / name, Path(folder) / "package" / name):
        if place.exists():
            return place
    raise MediaError(f"{name} is not below {folder}; unpack the package there")
