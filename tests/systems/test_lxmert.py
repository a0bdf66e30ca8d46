"""LXMERT beyond its evidence: the loss of pretraining is the library's, answers have names, and what is refused."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import library, randomise, regions
from polymodal.check.evidence.lxmert import inputs, small, spec, tiny
from polymodal.data.region_features import RegionFeatures
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.region_detectors import grid_boxes
from polymodal.systems.lxmert import SYSTEM
from polymodal.systems.lxmert.checkpoint import ANSWERS, PRETRAINING


def test_the_loss_of_pretraining_is_that_of_the_library(tmp_path) -> None:
    with library.quiet() as transformers:
        config = tiny(transformers)
        oracle = library.built(transformers, PRETRAINING, config)
        library.saved(oracle, tmp_path)
        given = inputs(config)
        labels = torch.full((3, 7), -100)
        labels[0, 2], labels[1, 1] = 9, 12
        objects, attributes = randomise.ids("objects", (3, 5), 0, 9), randomise.ids("attributes", (3, 5), 0, 6)
        sure, hidden = randomise.values("sure", (3, 5)).abs(), torch.rand(3, 5) < 0.4
        seen = given["visual_feats"] + 1
        answers = torch.tensor([3, -100, 10])
        asked = {"obj": (objects, sure), "attr": (attributes, sure), "feat": (seen, hidden.float())}
        wanted = oracle(**given, labels=labels, matched_label=torch.tensor([1, 0, 1]), obj_labels=asked, ans=answers)
    model = pm.load(tmp_path).module
    batch = {
        **given, "visual_feats": seen, "masked_visual_feats": given["visual_feats"], "masked_regions": hidden,
        "masked_input_ids": given["input_ids"], "labels": labels, "matched": torch.tensor([1, 0, 1]),
        "region_labels": {"objects": objects, "attributes": attributes}, "answer_labels": answers,
        "region_confidence": {"objects": sure, "attributes": sure},
    }  # fmt: skip
    losses = SYSTEM.recipe[0].objective.build(model)(model, batch)
    assert set(losses) == {"masked_words", "match", "objects", "attributes", "features", "answer"}
    assert sum(losses.values()).item() == pytest.approx(wanted.loss.item(), abs=1e-4)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = small(ANSWERS)
    made = spec(config)
    return regions.stored(tmp_path, config, made, made.build(), [f"thing {i}" for i in range(8)])


def test_of_more_than_36_regions_the_surest_are_read(folder) -> None:
    seen = RegionFeatures(
        features=np.ones((40, 12), np.float32), boxes=grid_boxes(5, 8), scores=np.linspace(0, 1, 40, dtype=np.float32)
    )
    batch = folder.processor(regions=seen, text="what is it?")
    assert batch["visual_feats"].shape == (1, 36, 12)
    assert batch["visual_pos"][0, 0].tolist() == seen.boxes[4].tolist()


def test_the_list_of_the_official_repository_names_the_answers(folder, tmp_path) -> None:
    (tmp_path / "answers.json").unlink()
    (tmp_path / "trainval_label2ans.json").write_text(json.dumps([f"word {i}" for i in range(8)]))
    model = pm.load(tmp_path)
    assert model.processor.answers[3] == "word 3"
    (tmp_path / "trainval_label2ans.json").write_text(json.dumps({f"name {i}": 7 - i for i in range(8)}))
    assert pm.load(tmp_path).processor.answers[0] == "name 7"
    (tmp_path / "trainval_label2ans.json").unlink()
    assert pm.load(tmp_path).processor.answers == tuple(f"answer {i}" for i in range(8))


def test_what_the_model_cannot_do_or_read_is_refused(folder) -> None:
    picture = pm.image(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="cannot classify"):
        folder.classify(picture, ["a", "b"])
    with pytest.raises(PromptError, match="cannot read audio; it takes regions, text"):
        folder.answer("what?", pm.audio((np.zeros(100, np.float32), 100)))
    with pytest.raises(PromptError, match="5 numbers a region, this model reads 12"):
        folder.answer("what?", pm.regions(RegionFeatures(features=np.ones((1, 5)), boxes=grid_boxes(1, 1))))
    ids = torch.ones(1, 3).long()
    with pytest.raises(ConfigError, match=r"expected visual_pos \[N, R, 4\], found \[1, 2, 5\]"):
        folder.logits(input_ids=ids, visual_feats=torch.ones(1, 2, 12), visual_pos=torch.ones(1, 2, 5))
    with pytest.raises(PromptError, match="1 texts for 2 pictures"):
        folder.logits(input_ids=ids, visual_feats=torch.ones(2, 2, 12), visual_pos=torch.ones(2, 2, 4))
    with pytest.raises(PromptError, match="expected visual_feats"):
        folder.logits(input_ids=ids)
    with pytest.raises(ConfigError, match="does not know the inputs"):
        folder.logits(input_ids=ids, pixel_values=torch.ones(1, 3, 4, 4))


def test_pairs_are_ranked_where_there_is_a_match_head(tmp_path) -> None:
    config = small(PRETRAINING)
    made = spec(config)
    model = regions.stored(tmp_path, config, made, made.build(), ())
    found = model.classify(pm.image(np.zeros((8, 8, 3), np.uint8)), ["a cat", "dogs"])
    assert sum(each.probability for each in found) == pytest.approx(1, abs=1e-5)


def test_another_class_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"architecture must be .*; found LxmertForTokens"):
        spec(small("LxmertForTokens"))
