"""Losses of hidden words and regions against their formulas, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from polymodal.check import randomise
from polymodal.check.evidence.vilbert import small, spec
from polymodal.errors import ConfigError
from polymodal.systems.vilbert.checkpoint import PRETRAINED
from polymodal.train.region_pretraining import (
    ConditionalMasking,
    RegionPretraining,
    class_divergence,
    feature_distance,
    hidden_features,
)


@pytest.fixture
def model():
    made = spec(small(PRETRAINED)).build()
    randomise.fill(made)
    return made.eval()


def batch() -> dict:
    hidden = torch.tensor([[True, False, False], [False, True, True]])
    return {
        "input_ids": randomise.ids("words", (2, 5), 5, 50),
        "masked_input_ids": randomise.ids("hidden", (2, 5), 5, 50),
        "labels": torch.tensor([[-100, 7, -100, -100, 9], [-100] * 5]),
        "visual_feats": randomise.values("feats", (2, 3, 12)),
        "visual_pos": randomise.values("pos", (2, 3, 5)).abs(),
        "masked_regions": hidden,
        "region_classes": randomise.values("classes", (2, 3, 8)).softmax(-1),
        "matched": torch.tensor([1, 0]),
    }


def test_hidden_regions_become_zero_or_what_the_batch_says() -> None:
    given = batch()
    found = hidden_features(given)
    assert not found[given["masked_regions"]].any()
    assert torch.equal(found[0, 1:], given["visual_feats"][0, 1:])
    assert hidden_features({**given, "masked_visual_feats": given["visual_feats"]}) is given["visual_feats"]


def test_divergence_and_distance_are_means_over_hidden_regions_alone() -> None:
    given = batch()
    logits, hidden = randomise.values("logits", (2, 3, 8)), given["masked_regions"]
    rows, target = logits[hidden].log_softmax(-1), given["region_classes"][hidden]
    wanted = (target * (target.log() - rows)).sum(-1).mean()
    assert class_divergence(logits, given["region_classes"], hidden.float()) == pytest.approx(float(wanted), abs=1e-6)
    wanted = (logits[hidden] - given["region_classes"][hidden]).square().mean()
    found = feature_distance(logits, given["region_classes"], hidden.float(), "square")
    assert found == pytest.approx(float(wanted), abs=1e-6)
    assert feature_distance(logits, given["region_classes"], torch.zeros(2, 3), "smooth") == 0


def test_one_pass_gives_words_regions_and_the_match_whose_yes_is_class_nought(model) -> None:
    given = batch()
    losses = RegionPretraining(yes=0).build(model)(model, given)
    found = model.predictions(input_ids=given["masked_input_ids"], visual_feats=hidden_features(given),
                              visual_pos=given["visual_pos"])  # fmt: skip
    labels = given["labels"]
    wanted = {
        "masked_words": F.cross_entropy(found["words"].flatten(0, 1), labels.flatten(), ignore_index=-100),
        "match": F.cross_entropy(found["match"], torch.tensor([0, 1])),
        "region_classes": class_divergence(found["classes"], given["region_classes"], given["masked_regions"].float()),
    }
    assert set(losses) == set(wanted)
    for name, loss in wanted.items():
        assert losses[name].item() == pytest.approx(loss.item(), abs=1e-5)


def test_a_model_without_the_heads_is_refused_by_name(model) -> None:
    with pytest.raises(ConfigError, match=r"conditional masking needs a RegionText with .*; this model lacks features"):
        ConditionalMasking().build(model)
    with pytest.raises(ConfigError, match="this model lacks regions"):
        RegionPretraining().build(torch.nn.Linear(1, 1))
