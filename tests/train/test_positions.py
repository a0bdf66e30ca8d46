"""Whatever a stage learns from, a step's batches follow from its number alone: what a run that goes on needs.

A fresh collator, asked for one late step and nothing before it, gives what one gave that was asked for all; tests/api/
test_training_kinds.py trains, stops and goes on.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

import method_folders
import modality_folders
import polymodal as pm
import stage_folders
from polymodal.api.training import TrainOptions, collator_of, learner_of, mixture_of, stage_of
from polymodal.train.batches import BatchOptions, StepData

KINDS = [  # system, stage, kinds of data
    ("clip", "contrastive", "image-text pairs"),
    ("vit", "fine-tune", "labelled images"),
    ("blip:answer", "vqa", "conversations"),
    ("flava", "joint", "image-text pairs + images + text"),
    ("roboflamingo", "imitate", "robot trajectories"),
    ("vilbert", "pretrain", "regions with captions"),
    ("lxmert", "pretrain", "LXMERT's regions"),
    ("lxmert:answers", "vqa", "regions with questions"),
    ("uniter", "pretrain", "regions with captions"),
    ("tombert", "train", "tweets with targets"),
    ("mesm", "train", "clips of speech"),
    ("c-mfn", "train", "punchlines"),
    ("dr-net", "train", "tweets as features"),
    ("mdl", "classifier", "users as features"),
    ("beit-v2:tokenizer", "tokenizer", "taught pictures"),
    ("lwm", "pictures 1k", "image-text pairs"),
    ("codi-2", "joint", "answers that show pictures"),
    ("fourm", "pretrain-7", "modalities"),
    ("fourm:codec", "codec", "maps of classes"),
    ("fourm:drawing", "diffusion-codec", "images"),
]
LAST = 4  # the second epoch of every data file here


def same(left: Any, right: Any) -> bool:
    """Equal batches, at any depth."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize(("system", "stage", "kinds"), KINDS)
def test_a_step_is_the_same_whatever_was_asked_before(system: str, stage: str, kinds: str, tmp_path: Path) -> None:
    data = {**stage_folders.DATA, **method_folders.DATA, **modality_folders.DATA}
    written = {**method_folders.WRITTEN, **modality_folders.WRITTEN}
    (tmp_path / "model").mkdir()
    if system in written:
        written[system](tmp_path / "model")
    else:
        stage_folders.write_folder(system, tmp_path / "model")
    files = [data[kind](tmp_path) for kind in kinds.split(" + ")]
    model = pm.load(tmp_path / "model", dtype="float32")

    def steps() -> Any:
        options, chosen = TrainOptions(), stage_of(model, stage)
        collator = collator_of(model, chosen, learner_of(model, chosen, options))
        return collator.steps(mixture_of(files, options), BatchOptions(batch=4))

    whole = steps()
    asked: list[StepData] = [whole[step] for step in range(LAST + 1)]
    late: StepData = steps()[LAST]
    assert late.names == asked[LAST].names and late.names
    assert same([each.batch for each in late.micro_batches], [each.batch for each in asked[LAST].micro_batches])
    assert late.names != asked[0].names or not same(late.micro_batches[0].batch, asked[0].micro_batches[0].batch)
