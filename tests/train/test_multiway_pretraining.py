"""Masked data modelling: each kind of batch gives its own losses, by their formulas."""

import pytest
import torch
import torch.nn.functional as F

from polymodal.check import multiway, randomise
from polymodal.check.evidence.beit_3 import small, spec
from polymodal.errors import ConfigError
from polymodal.systems.beit_3.checkpoint import CAPTIONS, RETRIEVAL
from polymodal.train.multiway_pretraining import MaskedDataModeling


def test_pairs_pictures_and_texts_give_the_losses_of_what_they_hide() -> None:
    model = spec(small(CAPTIONS)).build().eval()
    randomise.fill(model)
    loss = MaskedDataModeling(codes=8).build(model)
    hidden = torch.tensor([[True] * 3 + [False] * 13, [False] * 15 + [True]])
    words = {"masked_input_ids": randomise.ids("words", (2, 6), 4, 250), "attention_mask": torch.ones(2, 6).long(),
             "labels": torch.tensor([[-100, 9, -100, -100, -100, 7], [-100] * 6])}  # fmt: skip
    picture = {"pixel_values": randomise.values("pixels", (2, 3, 64, 64)), "bool_masked_pos": hidden,
               "image_labels": randomise.ids("codes", (2, 16), 0, 8)}  # fmt: skip
    found = loss(model, words | picture)
    states = model.states(pixel_values=picture["pixel_values"], input_ids=words["masked_input_ids"],
                          attention_mask=words["attention_mask"], bool_masked_pos=hidden)  # fmt: skip
    patches = F.cross_entropy(loss.patches(states[:, 1:17])[hidden], picture["image_labels"][hidden])
    seen = words["labels"] >= 0
    letters = F.cross_entropy(model.words(states[:, 17:])[seen], words["labels"][seen])
    assert found["masked_patches"].item() == pytest.approx(patches.item(), abs=1e-5)
    assert found["masked_words"].item() == pytest.approx(letters.item(), abs=1e-5)
    assert set(loss(model, words)) == {"masked_words"}
    assert set(loss(model, picture)) == {"masked_patches"}
    assert loss(model, words)["masked_words"].item() != pytest.approx(letters.item(), abs=1e-4)


def test_a_model_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a Multiway with a head of words"):
        MaskedDataModeling().build(spec(small(RETRIEVAL)).build())


def test_colours_of_patches_are_the_nearest_of_eight() -> None:
    pixels = -torch.ones(1, 3, 64, 64)
    pixels[:, 0, :16, 16:32] = 1
    assert multiway.colours(pixels)[0, :3].tolist() == [0, 4, 0]
