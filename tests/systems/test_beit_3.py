"""BEiT-3 beyond its evidence: beams by the official search, files without a config, its texts, and what is refused."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import multiway
from polymodal.check.evidence.beit_3 import small, spec
from polymodal.check.fixture import official_weights, read, store
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.systems.beit_3 import SYSTEM
from polymodal.systems.beit_3.checkpoint import ANSWERS, CAPTIONS, CLASSES, PAIRS, RETRIEVAL, read_shapes

MASK = 33  # of the fixture
PICTURE = np.full((32, 48, 3), 90, np.uint8)


@pytest.fixture
def captioner(tmp_path):
    about, tensors = read("beit_3_captions")
    (tmp_path / "config.json").write_text(about["config"])
    store(official_weights(about), tmp_path / about["file"], about["entry"])
    return pm.load(tmp_path), tensors


def test_captions_by_beams_are_those_of_the_official_search(captioner) -> None:
    model, tensors = captioner
    wanted = json.loads(bytes(tensors["out.beams"].tolist()))
    for setting, captions in wanted.items():
        beams, length, penalty = setting.split(",")
        ids = model.generate(
            pixel_values=tensors["in.pixel_values"], num_beams=int(beams), length_penalty=float(penalty),
            max_new_tokens=int(length) - 3, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
        found = [[i for i in row if i not in (0, 1, 2, MASK)] for row in ids.tolist()]
        assert found == captions, setting


def test_other_ways_of_writing_are_refused(captioner) -> None:
    model, tensors = captioner
    pixels = tensors["in.pixel_values"]
    with pytest.raises(ConfigError, match="set temperature=0"):
        model.generate(pixel_values=pixels, options=SamplingOptions(temperature=1.0))
    with pytest.raises(ConfigError, match="writes one caption of each of pixel_values"):
        model.generate(pixel_values=pixels, input_ids=torch.zeros(3, 2).long(), max_new_tokens=4)
    assert model.generate(pixel_values=pixels, max_new_tokens=500, eos_token_id=None).shape[1] <= 22


def test_the_loss_of_retrieval_is_the_official_one(tmp_path) -> None:
    about, tensors = read("beit_3_retrieval")
    (tmp_path / "config.json").write_text(about["config"])
    store(official_weights(about), tmp_path / about["file"], about["entry"])
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    found = pm.load(tmp_path)(**given, return_loss=True)
    assert found.loss.item() == pytest.approx(tensors["out.loss"].item(), abs=1e-5)


@pytest.mark.parametrize("kind", [ANSWERS, PAIRS, CLASSES, CAPTIONS, RETRIEVAL])
def test_an_official_file_alone_tells_its_kind_and_sizes(kind: str, tmp_path) -> None:
    about, _ = read(f"beit_3_{kind}")
    store(official_weights(about), tmp_path / "beit3.pth", "model")
    config = json.loads(about["config"])
    shapes = {name: tuple(shape) for name, shape in json.loads(about["shapes"]).items()}
    # Heads of 64 channels are taken, and the mask's id is in no tensor.
    wanted = {name: value for name, value in config.items() if name != "mask_token_id"} | {"encoder_attention_heads": 1}
    assert read_shapes(shapes) == wanted
    assert pm.load(tmp_path / "beit3.pth").system.id == "beit-3"
    assert read_shapes({"beit3.text_embed.weight": (3, 4)}) is None


def folder(tmp_path, kind: str, answers: tuple[str, ...] = (), **more):
    torch.manual_seed(0)
    config = small(kind, **more)
    made = spec(config)
    return multiway.stored(tmp_path, config, made, made.build(), answers)


def test_texts_begin_with_s_end_with_its_end_and_are_padded_with_one(tmp_path) -> None:
    model = folder(tmp_path, ANSWERS, ("yes", "no"), num_labels=2)
    batch = model.processor(images=[PICTURE, PICTURE], text=["hi", "a cat?"])
    assert batch["input_ids"][:, 0].tolist() == [0, 0]
    assert batch["input_ids"][0, 3:].tolist() == [2, 1, 1, 1, 1]
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert batch["pixel_values"][0, 0, 0, 0].item() == pytest.approx(90 / 127.5 - 1, abs=1e-3)
    long = model.processor(images=PICTURE, text="x" * 200)["input_ids"]
    assert long.shape == (1, 38)
    assert {each.label for each in model.answer(pm.image(PICTURE), "is it?")} == {"yes", "no"}


def test_two_pictures_of_a_text_and_one_are_told_apart(tmp_path) -> None:
    model = folder(tmp_path, PAIRS, num_labels=2)
    message = [{"role": "user", "content": [pm.image(PICTURE), pm.image(PICTURE[::-1]), "both grey"]}]
    assert model.logits(**model.processor(message)).shape == (1, 2)
    with pytest.raises(PromptError, match=r"expected 2 picture\(s\) and a text"):
        model.processor([{"role": "user", "content": [pm.image(PICTURE), "grey"]}])
    with pytest.raises(PromptError, match=r"two pictures a text, \[B, 2, 3, H, W\]; found \[1, 3, 64, 64\]"):
        model.logits(pixel_values=torch.zeros(1, 3, 64, 64), input_ids=torch.zeros(1, 2).long())


def test_pictures_of_another_size_long_texts_and_strange_tensors_are_refused(tmp_path) -> None:
    model = folder(tmp_path, CAPTIONS)
    with pytest.raises(ConfigError, match=r"expected pixel_values \[N, 3, 64, 64\], found \[1, 3, 32, 32\]"):
        model.logits(pixel_values=torch.zeros(1, 3, 32, 32), input_ids=torch.zeros(1, 2).long())
    with pytest.raises(ConfigError, match="a text of 39 tokens for a limit of 38"):
        model.logits(input_ids=torch.zeros(1, 39).long())
    with pytest.raises(PromptError, match="this model writes words: expected input_ids"):
        model.logits(pixel_values=torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match=r"does not know the inputs \['audio_values'\]"):
        model.logits(input_ids=torch.zeros(1, 2).long(), audio_values=torch.zeros(1))
    with pytest.raises(ConfigError, match="cannot answer"):
        model.answer("what?", pm.image(PICTURE))


def test_a_kind_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"kind must be one of .*; found pretraining"):
        spec(small("pretraining"))


def test_the_mask_of_the_published_vocabulary_stands_behind_its_64000_pieces() -> None:
    with torch.device("meta"):
        captioner = SYSTEM.module(SYSTEM.variant("base-captioning"))
    assert captioner.writing_ids.mask == 64001
