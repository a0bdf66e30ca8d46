"""Tiny folders and data files of the stages that learn from what few systems do: regions, targets, emotions, signals.

As tests/stage_folders.py has them of the others.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.check import regions
from polymodal.check.demo import write_config, write_weights
from polymodal.check.evidence import lxmert, uniter, vilbert
from polymodal.data.region_features import tsv_line
from polymodal.systems.lxmert.checkpoint import ANSWERS, PRETRAINING
from polymodal.systems.uniter.checkpoint import PRETRAINED as UNITER
from polymodal.systems.vilbert.checkpoint import PRETRAINED as VILBERT
from stage_folders import CLASSES, COUNT, lines

REGIONS, CELLS, LETTERS = 5, 12, "abcdefghijkl"


def _regions(module: Any, kind: str, answers: bool = False) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        config = module.small(kind)
        spec = module.spec(config)
        torch.manual_seed(0)
        write_config(folder, config=config)
        regions.write_pieces(folder)
        if answers:
            (folder / "answers.json").write_text(json.dumps(CLASSES))
        write_weights(folder, spec.build(), spec.keys[0])

    return write


WRITTEN: Mapping[str, Callable[[Path], None]] = {
    "vilbert": _regions(vilbert, VILBERT),
    "lxmert": _regions(lxmert, PRETRAINING, True),
    "lxmert:answers": _regions(lxmert, ANSWERS, True),
    "uniter": _regions(uniter, UNITER),
}


def _found(number: int) -> dict[str, np.ndarray]:
    """What a detector says of one picture of 40 x 30 pixels."""
    rng = np.random.default_rng(number)
    corners = rng.uniform(0, 0.5, (REGIONS, 2))
    return {
        "features": rng.normal(size=(REGIONS, CELLS)).astype("float32"),
        "norm_bb": np.concatenate((corners, corners + rng.uniform(0.1, 0.5, (REGIONS, 2))), 1).astype("float32"),
        "conf": rng.uniform(size=REGIONS).astype("float32"),
        "soft_labels": rng.dirichlet(np.ones(8), REGIONS).astype("float32"),
        "objects_id": rng.integers(0, 8, REGIONS),
        "objects_conf": rng.uniform(size=REGIONS).astype("float32"),
        "attrs_id": rng.integers(0, 2, REGIONS),
        "attrs_conf": rng.uniform(size=REGIONS).astype("float32"),
    }


def region_captions(folder: Path) -> Path:
    """A .npz file a picture, with all that a detector may say."""
    for number in range(COUNT):
        np.savez(folder / f"{number}.npz", **_found(number))
    rows = [{"regions": f"{number}.npz", "caption": f"colour {LETTERS[number % 6]}"} for number in range(COUNT)]
    return lines(folder / "regions.jsonl", rows)


def lxmert_regions(folder: Path) -> Path:
    """Questions and captions about pictures whose regions lie in one .tsv file with LXMERT's columns."""
    sides, made = np.array([40, 30, 40, 30], "float32"), []
    for number in range(COUNT):
        found = _found(number)
        names = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
        cells = [base64.b64encode(found[name].tobytes()).decode() for name in names]
        boxes, feats = (
            base64.b64encode(each.tobytes()).decode() for each in (found["norm_bb"] * sides, found["features"])
        )
        made.append("\t".join((f"COCO_{number}", "30", "40", *cells, str(REGIONS), boxes, feats)))
    (folder / "lxmert.tsv").write_text("\n".join(made) + "\n")
    rows = [
        {"regions": "lxmert.tsv", "image_id": f"COCO_{number}"}
        | (
            {"question": "which?", "answer": CLASSES[number % 8]}
            if number % 2
            else {"caption": f"colour {LETTERS[number]}"}
        )
        for number in range(COUNT)
    ]
    return lines(folder / "lxmert.jsonl", rows)


def region_questions(folder: Path) -> Path:
    """Questions about pictures whose regions lie in one .tsv file of bottom-up attention; VQA's ten answers."""
    made = []
    for number in range(COUNT):
        found = _found(number)
        boxes = found["norm_bb"] * np.array([40, 30, 40, 30], "float32")
        made.append(tsv_line(str(number), (40, 30), boxes, found["features"]))
    (folder / "regions.tsv").write_text("".join(made))
    rows = [
        {
            "regions": "regions.tsv",
            "image_id": number,
            "question": "which?",
            "answers": [CLASSES[number % 8]] * 3 + ["x"],
        }
        for number in range(COUNT)
    ]
    return lines(folder / "region-questions.jsonl", rows)


DATA: Mapping[str, Callable[[Path], Path]] = {
    "regions with captions": region_captions,
    "LXMERT's regions": lxmert_regions,
    "regions with questions": region_questions,
}
