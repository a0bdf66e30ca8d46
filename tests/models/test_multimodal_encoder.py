"""FLAVA's pretraining heads against transformers, masked and unmasked, one modality and both."""

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.evidence.flava import inputs, tiny
from polymodal.systems.flava import SYSTEM
from polymodal.systems.flava.checkpoint import PRETRAINING

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    config = tiny(transformers, return_loss=False)
    oracle = transformers.FlavaForPreTraining(config).eval()
    randomise.fill(oracle)
    opened = SYSTEM.formats[0].model_spec({**config.to_dict(), "architectures": [PRETRAINING]})
    ours = opened.build().eval()
    ours.load_state_dict(dict(opened.keys[0].apply(oracle.state_dict(), ours)))
    batch = inputs(config)
    masked = batch["input_ids"].clone()
    masked[:, 2] = 3
    return oracle, ours, batch, {"input_ids_masked": masked, "bool_masked_pos": randomise.values("m", (3, 9)) > 0}


@torch.no_grad()
def test_joint_heads_equal_the_oracle(pair) -> None:
    oracle, ours, batch, masked = pair
    wanted, found = oracle(**batch, **masked), ours.predictions(**batch, **masked)
    assert (found["itm"] - wanted.itm_logits).abs().max() <= TOLERANCE
    assert (found["mmm_image"] - wanted.mmm_image_logits).abs().max() <= TOLERANCE
    assert (found["mmm_text"] - wanted.mmm_text_logits).abs().max() <= TOLERANCE


@torch.no_grad()
def test_heads_of_one_modality_equal_the_oracle(pair) -> None:
    oracle, ours, batch, masked = pair
    picture = {"pixel_values": batch["pixel_values"], "bool_masked_pos": masked["bool_masked_pos"]}
    assert (ours.predictions(**picture)["mim"] - oracle(**picture).mim_logits).abs().max() <= TOLERANCE
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    text["input_ids_masked"] = masked["input_ids_masked"]
    assert (ours.predictions(**text)["mlm"] - oracle(**text).mlm_logits).abs().max() <= TOLERANCE
