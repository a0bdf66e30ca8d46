"""What the collators of regions hide, replace and ask for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import method_folders
import polymodal as pm
from polymodal.api.training import TrainOptions, collator_of, learner_of, stage_of
from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.errors import MediaError, PromptError
from polymodal.train.batches import BatchOptions


def made(system: str, stage: str, folder: Path):
    """The collator of a tiny folder."""
    folder.mkdir()
    method_folders.WRITTEN[system](folder)
    model = pm.load(folder, dtype="float32")
    chosen = stage_of(model, stage)
    return collator_of(model, chosen, learner_of(model, chosen, TrainOptions()))


def test_vilbert_never_hides_the_region_of_the_whole_picture_and_keeps_a_tenth(tmp_path: Path) -> None:
    collator = made("vilbert", "pretrain", tmp_path / "model")
    data = open_dataset(method_folders.region_captions(tmp_path))
    items = [collator.item(data.sample(index)) for index in range(len(data))]
    hidden = kept = matched = 0
    for seed in range(40):
        batch = collator.batch(items, torch.Generator().manual_seed(seed)).batch
        assert not batch["masked_regions"][:, 0].any() and batch["region_classes"].shape == (12, 6, 8)
        assert (batch["region_classes"][:, 0] == 0).all()
        same = (batch["masked_visual_feats"] == batch["visual_feats"]).all(-1)
        zero = (batch["masked_visual_feats"] == 0).all(-1)
        assert (same | zero).all() and same[~batch["masked_regions"]].all()
        hidden, kept = hidden + int(batch["masked_regions"].sum()), kept + int((same & batch["masked_regions"]).sum())
        matched += int(batch["matched"].sum())
        own = torch.tensor(
            [items[row].ids == batch["input_ids"][row, : len(items[row].ids)].tolist() for row in range(12)]
        )
        assert torch.equal(own.long(), batch["matched"])
    assert 0.11 < hidden / (40 * 12 * 5) < 0.19 and 0.05 < kept / hidden < 0.16
    assert 0.5 < matched / (40 * 12) < 0.75  # half, and those whose other text says the same


def test_lxmert_swaps_a_tenth_and_asks_of_true_pairs_alone(tmp_path: Path) -> None:
    collator = made("lxmert", "pretrain", tmp_path / "model")
    data = open_dataset(method_folders.lxmert_regions(tmp_path))
    items = [collator.item(data.sample(index)) for index in range(len(data))]
    assert [each.answer for each in items] == [number % 8 if number % 2 else -100 for number in range(12)]
    found = method_folders._found(3)
    assert items[3].labels["objects"].tolist() == found["objects_id"].tolist()
    assert items[3].confidence["attributes"].tolist() == found["attrs_conf"].tolist()
    batch = collator.batch(items, torch.Generator().manual_seed(1)).batch
    assert (batch["answer_labels"][batch["matched"] == 0] == -100).all() and (batch["answer_labels"] >= 0).any()
    changed = batch["masked_visual_feats"] != batch["visual_feats"]
    assert changed.any(-1)[~batch["masked_regions"]].sum() == 0


def test_a_step_of_uniter_is_of_one_task_and_the_same_in_every_process(tmp_path: Path) -> None:
    collator = made("uniter", "pretrain", tmp_path / "model")
    mixture = Mixture([open_dataset(method_folders.region_captions(tmp_path))])
    ranks = [collator.steps(mixture, BatchOptions(batch=4, rank=rank, ranks=2)) for rank in range(2)]
    seen = {"masked_input_ids": 0, "masked_regions": 0, "matched": 0}
    for step in range(30):
        batches = [each[step].micro_batches[0].batch for each in ranks]
        tasks = [[name for name in seen if name in batch] for batch in batches]
        assert tasks[0] == tasks[1] and len(tasks[0]) == 1
        seen[tasks[0][0]] += 1
    assert all(seen.values())


def test_regions_that_say_too_little_are_named(tmp_path: Path) -> None:
    collator = made("vilbert", "pretrain", tmp_path / "model")
    found = method_folders._found(0)
    np.savez(tmp_path / "a.npz", **{name: found[name] for name in ("features", "norm_bb")})
    (tmp_path / "a.jsonl").write_text(json.dumps({"regions": "a.npz", "caption": "c"}))
    with pytest.raises(PromptError, match=r"a\.npz: has no soft_labels"):
        collator.item(open_dataset(tmp_path / "a.jsonl").sample(0))
    method_folders.lxmert_regions(tmp_path)
    (tmp_path / "b.jsonl").write_text(json.dumps({"regions": "lxmert.tsv", "image_id": "no", "caption": "c"}))
    with pytest.raises(MediaError, match=r"lxmert\.tsv: has no picture 'no' among its 12"):
        collator.item(open_dataset(tmp_path / "b.jsonl").sample(0))
