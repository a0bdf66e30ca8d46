"""TomBERT: the official inputs of a tweet, the second BERT as a copy, and bad input refused by name."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from polymodal.check.evidence.tombert import SMALL, samples
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get
from polymodal.systems.tombert.inputs import picture_values, tweet_inputs

SPEC = get("tombert").formats[0].model_spec
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rt", "$", "t", "is", "back", "in", "town", "lady", "gaga", "!"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    kind = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(kind))
    return CheckpointFiles(tmp_path).tokenizer()


def words(ids):
    return " ".join(WORDS[each] for each in ids[0].tolist())


def test_the_mark_stays_in_the_tweet(tokenizer):
    made = tweet_inputs(tokenizer, "RT $T$ is back in town !", "Lady Gaga")
    assert words(made["input_ids"]) == "[CLS] rt $ t $ is back in town ! [SEP] lady gaga [SEP]"
    assert made["token_type_ids"].tolist() == [[0] * 11 + [1] * 3]
    assert words(made["target_ids"]) == "[CLS] lady gaga [SEP]"
    cut = tweet_inputs(tokenizer, "is " * 80, "gaga " * 30)
    assert cut["input_ids"].shape == (1, 64) and cut["target_ids"].shape == (1, 16)
    assert cut["token_type_ids"].sum() == 31  # the longer is cut until both are alike
    with pytest.raises(PromptError, match="expected a target, found none"):
        tweet_inputs(tokenizer, "hello", " ")


def test_pictures_are_cropped_in_the_middle():
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    pixels[38:262, 88:312] = 255
    white = picture_values(Image.fromarray(pixels))
    assert white.shape == (3, 224, 224)
    one = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(white, one[:, None, None].expand(3, 224, 224))
    assert picture_values(Image.new("RGB", (50, 100))).shape == (3, 224, 224)


def test_training_begins_with_a_copy():
    torch.manual_seed(0)
    model = SPEC(SMALL).build()
    model.copy_text_to_target()
    pairs = zip(model.text.parameters(), model.target.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)


def test_refusals():
    model, data = SPEC(SMALL).build().eval(), samples([0, 1, 2], [1, 0, 1])
    data.pop("labels")
    for change, message in (
        ({"target_ids": None}, "found no target_ids"),
        ({"pixel_values": None}, "expected input_ids, target_ids and pixel_values, found no pixel_values"),
        (
            {"target_ids": data["target_ids"][:2]},
            "found input_ids 3, target_ids 2, pixel_values 3",
        ),
    ):
        with pytest.raises(PromptError, match=message):
            model(**{**data, **change})
    with pytest.raises(ConfigError, match=r"does not know the inputs \['regions'\]"):
        model(**data, regions=torch.zeros(3, 49, 64))
    given = SPEC({**SMALL, "vision_config": None}).build()
    with pytest.raises(PromptError, match=r"regions must be \[B, R, 64\], found \[3, 49, 32\]"):
        given(**{**data, "pixel_values": None}, regions=torch.zeros(3, 49, 32))
    with pytest.raises(ConfigError, match="pooling 'mean'; expected one of first, cls, both"):
        SPEC({**SMALL, "pooling": "mean"})
    with pytest.raises(ConfigError, match="the ResNet gives 64 numbers a region, region_width is 2048"):
        SPEC({**SMALL, "region_width": 2048})
    with pytest.raises(ConfigError, match="tombert: "):
        SPEC({**SMALL, "crop": 224})
