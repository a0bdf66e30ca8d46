"""Tiny folders and data files of CoDi-2 and 4M: answers that show pictures, many modalities of one thing, maps.

As tests/stage_folders.py has them of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.check.demo import Checkpoint, byte_tokenizer
from polymodal.check.evidence import codi_2, fourm
from polymodal.systems.fourm import SYSTEM
from stage_folders import COUNT, lines, picture

SPECIALS = ("[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(16)), "v0=0", "v1=0", "v2=999", "v3=999")


def _fourm(folder: Path) -> None:
    """Pixels, brightness, words, boxes, vectors of words."""
    words = {"type": "seq", "vocab_size": byte_tokenizer(folder, SPECIALS, pad="[PAD]"), "max_length": 30}
    vectors = {"type": "seq_emb", "max_length": 8, "orig_emb_dim": 5}
    torch.manual_seed(0)
    config = fourm.shape(**{"rgb@224": fourm.PIXELS, "tok_depth@224": fourm.grid(16), "caption": words, "det": words,
                            "t5_caption": vectors})  # fmt: skip
    Checkpoint(format=SYSTEM.formats[0], config=config, file="model.safetensors", written=config).stored(folder)


def _codec(folder: Path) -> None:
    torch.manual_seed(0)
    config = fourm.codec_config()
    Checkpoint(format=SYSTEM.formats[1], config=config, file="model.safetensors", written=config).stored(folder)


def _drawing(folder: Path) -> None:
    torch.manual_seed(0)
    config = fourm.drawing_config()
    Checkpoint(format=SYSTEM.formats[2], config=config, file="model.safetensors", written=config).stored(folder)


def _codi_2(folder: Path) -> None:
    codi_2.marked_folder(folder)


WRITTEN: Mapping[str, Callable[[Path], None]] = {
    "fourm": _fourm,
    "fourm:codec": _codec,
    "fourm:drawing": _drawing,
    "codi-2": _codi_2,
}


def modalities(folder: Path) -> Path:
    """All of a thing, or pictures with words, or words alone."""
    rows: list[dict[str, Any]] = []
    places = (fourm.SIDE // fourm.PATCH,) * 2
    for number in range(COUNT):
        draw = np.random.default_rng(number)
        np.save(folder / f"{number}.depth.npy", draw.integers(0, 16, places))
        known: dict[str, Any] = {"caption": f"thing {number}"}
        if number % 3:
            known["rgb@224"] = {"image": picture(folder, number)}
            known["det"] = [{"label": "cat", "box": [0.0, 0.0, 1.0, 1.0]}]
        if number % 3 == 2:
            known["tok_depth@224"] = {"array": f"{number}.depth.npy"}
            known["t5_caption"] = {"array": draw.normal(size=(3, 5)).round(3).tolist()}
        rows.append({"modalities": known})
    return lines(folder / "modalities.jsonl", rows)


def maps(folder: Path) -> Path:
    """Classes of the pixels of a picture."""
    rows = []
    for number in range(COUNT):
        values = np.random.default_rng(number).integers(0, fourm.CLASSES, (fourm.SIDE, fourm.SIDE))
        np.save(folder / f"{number}.classes.npy", values)
        rows.append({"map": f"{number}.classes.npy"})
    return lines(folder / "maps.jsonl", rows)


def shown(folder: Path) -> Path:
    """Questions that are answered in words, with a picture, and with words and a picture behind a mark."""
    answers = ("no", "<image>", "Here: <p><image>")
    rows = []
    for number in range(COUNT):
        row: dict[str, Any] = {"question": "Another?", "answer": answers[number % 3]}
        if number % 3:
            row["image"] = picture(folder, number)
        rows.append(row)
    return lines(folder / "shown.jsonl", rows)


DATA: Mapping[str, Callable[[Path], Path]] = {
    "modalities": modalities,
    "maps of classes": maps,
    "answers that show pictures": shown,
}
