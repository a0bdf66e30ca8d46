"""Stages whose data few systems share: two steps of each from data files (tests/method_folders.py writes them)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import method_folders
import modality_folders
import polymodal as pm
import stage_folders
from polymodal.api import training
from polymodal.api.training import TrainOptions

SET = ["budget.batch=4", "budget.steps=2", "budget.precision=float32", "optimizer.lr=0.001",
       'schedule={"type": "Constant"}']  # fmt: skip
RUNS: list[tuple[str, str, str, list[str]]] = [  # system, stage, kinds of data (" + " between them), settings
    ("vilbert", "pretrain", "regions with captions", []),
    ("lxmert", "pretrain", "LXMERT's regions", []),
    ("lxmert:answers", "vqa", "regions with questions", []),
    ("uniter", "pretrain", "regions with captions", ["budget.steps=6"]),
    ("tombert", "train", "tweets with targets", []),
    ("mesm", "train", "clips of speech", []),
    ("c-mfn", "train", "punchlines", []),
    ("dr-net", "train", "tweets as features", []),
    ("mdl", "dictionaries", "users as features", ["budget.batch=12"]),
    ("mdl", "classifier", "users as features", []),
    (
        "gill",
        "align",
        "captions with signals",
        ["budget.max_length=24", "train=connectors,retrieval,backbone.embed_tokens"],
    ),
    ("minigpt-5", "align", "wishes for pictures", []),
    ("minigpt-5", "stories", "stories", []),
    ("emu", "pretrain", "image-text pairs", []),
    ("emu", "instruct", "image-text pairs", []),
    ("beit-v2:tokenizer", "tokenizer", "taught pictures", []),
    ("beit-v2", "masked-pictures", "images", ["codec"]),
    ("beit-3:words", "pretrain", "image-text pairs + images + text", ["codec", "objective.codes=32", "budget.steps=3"]),
    ("lwm", "pictures 1k", "image-text pairs", []),
    ("codi-2", "joint", "answers that show pictures", []),
    ("fourm", "pretrain-7", "modalities", ["budget.batch=6"]),
    ("fourm", "pretrain-21", "modalities", ["budget.batch=6"]),
    ("fourm:codec", "codec", "maps of classes", []),
    ("fourm:drawing", "diffusion-codec", "images", []),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each system, or a file of each kind of data, written once."""
    whole = tmp_path_factory.mktemp("kinds")
    made: dict[str, Path] = {}
    data = {**stage_folders.DATA, **method_folders.DATA, **modality_folders.DATA}
    written = {**method_folders.WRITTEN, **modality_folders.WRITTEN}

    def get(name: str) -> Path:
        if name not in made:
            home = whole / ("data" if name in data else name.replace(":", "-"))
            home.mkdir(exist_ok=True)
            if name in written:
                written[name](home)
            made[name] = data[name](home) if name in data else home
        return made[name]

    return get


@pytest.mark.parametrize(("system", "stage", "kind", "more"), RUNS)
def test_a_stage_learns_from_its_kind_of_data(
    place: Callable[[str], Path], tmp_path: Path, system: str, stage: str, kind: str, more: list[str]
) -> None:
    model = pm.load(place(system), dtype="float32")
    data: list[Any] = [place(each) for each in kind.split(" + ")]
    codec = str(place("beit-v2:tokenizer")) if "codec" in more else ""
    settings = [*SET, *(each for each in more if each != "codec")]
    options = TrainOptions(codec=codec)
    losses = training.fit(model, data, out=tmp_path / "run", stage=stage, settings=settings, options=options)
    assert losses and all(map(math.isfinite, losses))
    assert not (tmp_path / "run" / "skipped.jsonl").exists()
