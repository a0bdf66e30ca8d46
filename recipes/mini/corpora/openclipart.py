"""Open Clip Art Library 0.18: drawings with titles and key words by many hands.

Packages: Debian `openclipart-png` (pictures) and `openclipart-svg` (the same drawings; their RDF block holds title,
key words and author), public domain.  Key: the normalised title with digits removed.
Traps: links are second copies and are skipped; `shapes/stars` is generated and is skipped; many titles name a whole
collection (then the file name is used); Italian and French titles are translated where CLDR names the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corpora import caption as words
from corpora import raster
from corpora.lexicon import Lexicon
from corpora.record import Corpus, Picture
from corpora.wordlists import word_set
from polymodal.data.sets.openclipart import Entry, read_entry
from polymodal.data.sets.split import normalise, split_of
from polymodal.errors import MediaError

_SKIP = re.compile(
    r"^(shapes/(stars|jigsaw|flowchart|callouts)|special|logos|.*icons/.*(action|mimetype|stock|emblem))"
)
_COLLECTION = re.compile(
    r"collection|clip ?arts?\b|theme|aiga_symbol|svg |etiquette|map symbols|@|illustration \d*$|^unsorted|^untitled"
    r"|^advertising$|^simple arrows$|^people$|^sport$",
    re.IGNORECASE,
)
_LATIN = re.compile(r"rollandin|guillou|bersac|jacq|balin", re.IGNORECASE)  # authors who title in Italian or French
_NO_KEYWORD = word_set(
    "animal mammal insect food symbol sign people person hash shape office computer holiday transport vehicle "
    "fruit tool building toy plant menu music recreation entertainment weather geography map card link network "
    "world hardware container kitchen clothing sports bodypart liquid dessert beverage vegetable book unsorted "
    "science space game party decoration element box circle square screen light line paper art hand woman man "
    "head button king house arrow money work state country island city place europe top bottom key star gold "
    "glass home hotel water food school baby flag face thumb sun moon window door hat bed core protein "
    "chemical card date map music"
)
_NOISE = re.compile(
    r"\b(body ?part|clothing$|card figures?|in room|generic|another|gnome|with straight lines|folder (?=\w)"
    r"|(lower|upper) (left|right) corner|fs|mime|gis)\b", re.IGNORECASE
)  # fmt: skip
_KINDS = (
    ("animals", "animal"), ("food", "food"), ("plants", "plant"), ("signs_and_symbols/flags", "flag"),
    ("transportation/roadsigns", "sign"), ("transportation/aiga-symbols", "sign"),
    ("signs_and_symbols/map_symbols", "sign"),
    ("people/clothing", "clothing"), ("people/bodypart", "body part"), ("people/smilies", "face"),
    ("transportation/vehicles", "vehicle"), ("transportation/boating", "vehicle"), ("buildings/homes", "building"),
    ("buildings/furniture", "furniture"), ("recreation/music", None),
)  # fmt: skip
_GLANCE = ("animal", "food", "plant")  # folders whose strays (a dog's bowl, a fork) must be kept from the kind


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is needed to understand a title: the dictionary, foreign name -> English name (`emoji.translations`),
    and names of things that other picture sets show; icons and key words count only when they are among these."""

    lexicon: Lexicon
    translate: Mapping[str, str]
    shown: frozenset[str]


def open(folder: str | Path, vocabulary: Words) -> Corpus:
    """Read the drawings below `folder`, where both packages are unpacked (or `/`).

    Raises MediaError when a package is missing.
    """
    base = Path(folder)
    png = next(iter(sorted(base.glob("**/openclipart/png"))), None)
    svg = next(iter(sorted(base.glob("**/openclipart/svg"))), None)
    if png is None or svg is None:
        raise MediaError(f"openclipart is incomplete below {folder}; unpack openclipart-png and openclipart-svg there")
    found = []
    for path in sorted(png.glob("**/*.png")):
        name = path.relative_to(png).with_suffix("").as_posix()
        drawing = svg / f"{name}.svg"
        if path.is_symlink() or _SKIP.match(name) or not drawing.exists():
            continue
        entry = read_entry(drawing)
        if picture := _picture(name, entry, vocabulary):
            found.append(picture)
    return Corpus(name="openclipart", pictures=tuple(found), image=lambda picture: raster.open_file(png / picture.path))


def _picture(name: str, entry: Entry, vocabulary: Words) -> Picture | None:
    lexicon = vocabulary.lexicon
    folder = name.rpartition("/")[0]
    kind = next((kind for prefix, kind in _KINDS if folder.startswith(prefix)), None)
    short = caption_of(name, entry, vocabulary)
    if short is None:
        return None
    bare = words.strip_article(short)
    nouns, broader = words.split_nouns(bare, lexicon)
    if short.startswith("the flag of "):
        nouns, broader = (bare,), ("flag",)
    elif short.endswith(" sign") and kind == "sign":
        nouns, broader = (bare, bare.removesuffix(" sign")), ("sign",)
    measured = lexicon.kind(nouns[0])
    stray = kind in _GLANCE and measured not in (kind, None)
    if stray or kind in (None, "clothing", "vehicle", "body part"):
        kind = measured
    key = normalise(re.sub(r"\d", "", entry.title))
    return Picture(
        id=f"openclipart/{name}",
        corpus="openclipart",
        style="clip art",
        key=key,
        split=split_of(key),
        nouns=nouns,
        broader=broader,
        caption=short,
        related=tuple(dict.fromkeys(word.lower() for word in entry.keywords if word.lower() not in words.FILING)),
        category=folder,
        kind=kind,
        path=f"{name}.png",
    )


def caption_of(name: str, entry: Entry, vocabulary: Words) -> str | None:
    """The best caption that title, file name, folder and key words support, or None."""
    lexicon, translate = vocabulary.lexicon, vocabulary.translate
    folder, _, stem = name.rpartition("/")
    author = [part for part in re.split(r"[^A-Za-z]+", entry.author.lower()) if part]
    from_stem = bool(_COLLECTION.search(entry.title)) or not entry.title
    text = stem if from_stem else entry.title
    if "/flags" in folder:
        return None if re.search("miscellany|semaphore|historic", folder) else _flag(text)
    if "/cards" in folder or "smilies" in folder:
        return "a playing card" if "/cards" in folder else "a smiley face"
    if "stickmen" in folder:
        return "a stick man"
    text = _NOISE.sub(" ", text.replace("_", " "))
    foreign = normalise(re.sub(r"\d", "", text))
    if _LATIN.search(entry.author) or not words.clean_title(text, lexicon):
        first = translate.get(foreign.split(" ")[0]) if _LATIN.search(entry.author) else None
        if english := translate.get(foreign) or first:
            return words.phrase(english, lexicon)
        if "rollandin" in entry.author.lower():  # an Italian word may look English: "cane" is a dog
            return _by_keyword(entry, vocabulary)
    if "roadsigns" in folder or "aiga" in f"{name} {entry.title}".lower() or "map_symbols" in folder:
        plain = [w for w in words.tokens(stem) if w not in words.FILING | {"aiga"} and len(w) > 1]
        plain = plain[:-1] if plain[-1:] == ["sign"] else plain
        good = plain and all(lexicon.is_word(w) or w in words.STOP for w in plain)
        return f"{words.article(plain[0])} {' '.join(plain)} sign" if good else None
    title = words.clean_title(text, lexicon, author if from_stem else ())
    if title and folder.startswith(("computer", "signs_and_symbols", "unsorted")):
        exact, _ = words.split_nouns(title, lexicon)
        title = title if exact[0] in vocabulary.shown else None
    return words.phrase(title, lexicon) if title else _by_keyword(entry, vocabulary)


def _flag(text: str) -> str | None:
    """ "France - Lorraine" -> "the flag of Lorraine"; signal flags and oddities give None."""
    text = re.sub(r"\(.*?\)|[Ff]lag( of)?|\bnu nl\b", "", text).replace("_", " ").strip(" -")
    if re.search(r"signal|\d|semaphore|clipart|[^\w\s.'-]", text):
        return None
    place = re.split(r"\s+-\s+", text)[-1].strip()
    place = " ".join(word if word[:1].isupper() else word.capitalize() for word in place.split())
    place = re.sub(r"^(Usa|Uk|France|Germany|Spain|Italy|Canada|Australia|China|United States) (?=\w)", "", place)
    return words.flag_of(place) if 2 < len(place) < 40 else None


def _by_keyword(entry: Entry, vocabulary: Words) -> str | None:
    """The one key word that names a drawable thing, when there is exactly one (so it cannot be a side detail)."""
    lexicon = vocabulary.lexicon
    fit = [
        word
        for word in dict.fromkeys(word.lower() for word in entry.keywords)
        if word in vocabulary.shown and word not in _NO_KEYWORD | words.FILING and lexicon.concrete(word, 1)
    ]
    return words.phrase(fit[0], lexicon) if len(fit) == 1 else None
