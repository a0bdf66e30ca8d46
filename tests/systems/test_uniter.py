"""UNITER beyond its evidence: its four losses by the official code, files without a config, and what is refused."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import regions
from polymodal.check.evidence.uniter import small, spec
from polymodal.check.fixture import official_weights, read, store
from polymodal.data.region_features import RegionFeatures
from polymodal.errors import ConfigError, WeightsError
from polymodal.pipelines.region_detectors import grid_boxes
from polymodal.systems.uniter import SYSTEM
from polymodal.systems.uniter.checkpoint import ANSWERS, REGIONS, RETRIEVAL, read_shapes

INPUTS = ("input_ids", "attention_mask", "visual_feats", "visual_pos", "visual_attention_mask")


@pytest.fixture
def official(tmp_path):
    about, tensors = read("uniter_pretrained")
    (tmp_path / "config.json").write_text(about["config"])
    store(official_weights(about), tmp_path / about["file"], "")
    return pm.load(tmp_path), tensors


def test_the_four_losses_are_those_of_the_official_code(official) -> None:
    model, tensors = official
    asked = {name[10:]: value for name, value in tensors.items() if name.startswith("out.asked.")}
    batch = {name: tensors[f"in.{name}"] for name in INPUTS} | asked
    losses = SYSTEM.recipe[0].objective.build(model.module)(model.module, batch)
    wanted = {name[9:]: value.item() for name, value in tensors.items() if name.startswith("out.loss.")}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted, abs=1e-5)


def test_heads_of_words_and_regions_are_those_of_the_official_code_beside_padding(official) -> None:
    model, tensors = official
    found = model.predict(**{name: tensors[f"in.{name}"] for name in INPUTS})
    for head, mask in (("words", "attention_mask"), *((x, "visual_attention_mask") for x in ("features", "classes"))):
        real = tensors[f"in.{mask}"].bool()
        assert (found[head] - tensors[f"out.heads.{head}"])[real].abs().max() <= 1e-4, head


@pytest.mark.parametrize("fixture", ["uniter_pretrained", "uniter_answers", "uniter_retrieval", "uniter_regions"])
def test_kind_and_sizes_are_read_off_an_official_file(fixture: str) -> None:
    about, _ = read(fixture)
    wanted = json.loads(about["config"])
    found = read_shapes({name: tuple(shape) for name, shape in json.loads(about["shapes"]).items()})
    # The activation is in no tensor, and heads of 64 channels are taken.
    assert found == {name: value for name, value in wanted.items() if name != "hidden_act"} | {"num_attention_heads": 1}
    assert read_shapes({"bert.embeddings.word_embeddings.weight": (3, 4)}) is None


def test_a_region_that_is_padding_cannot_be_pointed_at() -> None:
    made = spec(small(REGIONS)).build()
    mask = torch.tensor([[1, 1, 0]])
    scores = made(input_ids=torch.ones(1, 2).long(), visual_feats=torch.ones(1, 3, 12), visual_pos=torch.ones(1, 3, 7),
                  visual_attention_mask=mask).logits  # fmt: skip
    assert scores[0, 2] < scores[0, :2].min() - 9000


def test_10_to_100_regions_are_read_by_how_sure_the_detector_was(tmp_path) -> None:
    config = small(RETRIEVAL)
    made = spec(config)
    model = regions.stored(tmp_path, config, made, made.build(), ())

    def count(scores: np.ndarray) -> int:
        seen = RegionFeatures(features=np.ones((len(scores), 12)), boxes=grid_boxes(1, len(scores)), scores=scores)
        return model.processor(regions=seen, text="a")["visual_feats"].shape[1]

    assert count(np.linspace(0.9, 0, 200)) == 100
    assert count(np.linspace(0.9, 0, 37)) == 28
    assert count(np.full(37, 0.1)) == 10
    assert count(np.full(4, 0.1)) == 4
    ranks = model.classify(pm.image(np.zeros((8, 8, 3), np.uint8)), ["a", "b", "c"])
    batch = model.processor.batch([pm.image(np.zeros((8, 8, 3), np.uint8))] * 3, [each.label for each in ranks])
    shares = model.logits(**batch)[:, 0].softmax(0)
    assert [each.probability for each in ranks] == pytest.approx(shares.tolist(), abs=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kind must be one of .* found pairs"):
        spec(small("pairs"))
    table = spec(small(ANSWERS)).keys[0]
    with torch.device("meta"):
        target = spec(small(ANSWERS)).build().state_dict()
    with pytest.raises(WeightsError, match="nlvr2_output"):
        table.check([*(name for name, _ in table.inverse().apply(target)), "nlvr2_output.weight"], target).require()
