"""The two rules that every prepared set obeys: which side a concept is on, and which pictures are taken for one.

Trap: a key names a concept, never a file: every size, style, voice and language of it falls on one side.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

NEAR = 4  # bits: two 64-bit difference hashes this close are taken for one picture
RULE = "int(sha1(key), 16) % 10: 0 is test, 1 is val, the rest is train"


def normalise(text: str) -> str:
    """Lower case, every run of characters that are neither letters nor digits to one space."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def split_of(key: str) -> str:
    """The side of a concept: one in ten "test", one in ten "val", the rest "train"; depends on the key alone."""
    bucket = int(hashlib.sha1(key.encode("utf-8")).hexdigest(), 16) % 10
    return {0: "test", 1: "val"}.get(bucket, "train")


def dhash(image: PIL.Image.Image) -> int:
    """64-bit difference hash: is each of 8 x 8 grey cells darker than its right neighbour?"""
    small = np.asarray(image.convert("L").resize((9, 8), 3), dtype=np.int16)  # 3 = bicubic
    bits = (small[:, :-1] < small[:, 1:]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_any(hashes: Sequence[int], others: Sequence[int], bits: int = NEAR) -> np.ndarray:
    """For each hash [N]: does any of `others` [M] lie within `bits` bits?  Returns bool [N]."""
    left, right = np.asarray(hashes, dtype=np.uint64), np.asarray(others, dtype=np.uint64)
    near = np.zeros(len(left), dtype=bool)
    if len(right) == 0:
        return near
    for start in range(0, len(left), 512):  # 512 x M distances at a time keeps this within tens of megabytes
        distance = np.bitwise_count(left[start : start + 512, None] ^ right[None, :])
        near[start : start + 512] = (distance <= bits).any(axis=1)
    return near
