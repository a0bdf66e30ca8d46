"""Ferret: regions in the text and as points, pictures without their proportions, boxes read back, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.ferret import tiny
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.ferret import SYSTEM
from polymodal.systems.ferret.checkpoint import SYSTEM_WORDS
from polymodal.systems.ferret.regions import PLACES, sampled

PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (60, 120, 3), dtype=np.uint8))


def written(folder: Path) -> pm.Model:
    size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = tiny(size + 1, folder / "clip")
    write_config(folder, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pm.Model:
    return written(tmp_path_factory.mktemp("ferret"))


def asked(*parts) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def test_turns_are_written_as_in_training(model: pm.Model) -> None:
    talk = [
        *asked(pm.image(PICTURE), "What is the ", pm.array([0.1, 0.2, 0.3, 0.9999], "region"), " near ",
               pm.array([0.5, 0.25], "region"), "?"),
        {"role": "assistant", "content": "A dog [100, 200, 300, 999]."},
        *asked("And ", pm.array([0.0, 0.0, 1.0, 1.0], "region")),
    ]  # fmt: skip
    processor = model.processor
    ids = processor(talk, generate=True)["input_ids"][0]
    text = processor.tokenizer.decode(ids[ids >= 0].tolist(), skip_special=False)
    assert text == (
        f"<s>{SYSTEM_WORDS} USER: \nWhat is the [100, 200, 300, 999] <region_fea> near [500, 250] <region_fea>? "
        "ASSISTANT: A dog [100, 200, 300, 999].</s>USER: And [0, 0, 1000, 1000] <region_fea> ASSISTANT:"
    )
    assert model.chat(talk, max_tokens=2).tokens["region"] == 3


def test_points_lie_in_their_region(model: pm.Model) -> None:
    """generate_mask_for_feature of the official code: the box with its last pixel, a window of 11, a mask."""
    mask = np.zeros((60, 120), np.uint8)
    mask[10:12, 70:73] = 1
    regions = [pm.array(x, "region") for x in ([0.25, 0.5, 0.5, 0.75], [0.5, 0.01], mask)]
    batch = model.processor(asked(pm.image(PICTURE), *regions))
    pixels = batch["region_points"] * torch.tensor([120.0, 60.0])
    for found, bounds in zip(pixels, ((30, 30, 60, 45), (55, 0, 65, 5), (70, 10, 72, 11)), strict=True):
        low, high = found.amin(0).round(), found.amax(0).round()
        assert (low >= torch.tensor(bounds[:2])).all() and (high <= torch.tensor(bounds[2:])).all()
    assert len(pixels[2].round().unique(dim=0)) == 6 and batch["region_points"].shape == (3, 20, 2)
    text = model.processor.tokenizer.decode([i for i in batch["input_ids"][0].tolist() if i >= 0], skip_special=False)
    assert text.count("[583, 166, 600, 183] <region_fea>") == 1  # the box around the mask


def test_as_many_points_as_are_wanted() -> None:
    few, many = np.arange(6).reshape(3, 2), np.arange(2000).reshape(1000, 2)
    assert {tuple(row) for row in sampled(few, 20).tolist()} == {tuple(row) for row in few.tolist()}
    assert len(np.unique(sampled(many, 512), axis=0)) == 512 and (sampled(many, 512) == sampled(many, 512)).all()


def test_pictures_become_squares(model: pm.Model) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPImageProcessorPil(do_center_crop=False, size={"height": 56, "width": 56})
    batch = model.processor(asked(pm.image(PICTURE), pm.array([0.5, 0.5], "region")))
    wanted = theirs(PICTURE, return_tensors="pt")["pixel_values"]
    assert (batch["pixel_values"] - wanted).abs().max() < 1e-5
    assert torch.equal(batch["region_pixels"], batch["pixel_values"])


def test_what_is_in_the_region_matters(model: pm.Model) -> None:
    batches = [model.processor(asked(pm.image(PICTURE), pm.array(box, "region")))
               for box in ([0.0, 0.0, 0.2, 0.2], [0.8, 0.8, 1.0, 1.0])]  # fmt: skip
    one, other = (model.features(**batch)["region"] for batch in batches)
    assert one.shape == (1, 1, 64) and (one - other).abs().max() > 1e-4


def test_boxes_are_read_as_published() -> None:
    text = PLACES.write([(0.1234, 0.2, 0.5, 0.75)], (640, 480))
    assert text == f"[{int(0.1234 * 1000)}, {int(0.2 * 1000)}, 500, 750]"
    assert re.fullmatch(r"\[(\d+), (\d+), (\d+), (\d+)\]", text)
    assert PLACES.read(f"a dog {text}, a cat [0, 10, 20, 1000]", (640, 480)) == [
        ((0.123, 0.2, 0.5, 0.75),), ((0.0, 0.01, 0.02, 1.0),)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ([0.1, 0.2, 1.5, 0.3], r"expected a point \(x, y\) or a box .* within 0\.\.1 of the picture"),
        ([0.5, 0.2, 0.4, 0.3], "left <= right"),
        ([0.1, 0.2, 0.3], "expected a point"),
        (np.ones((30, 30)), r"expected a mask of the picture's 60 x 120, found \(30, 30\)"),
        (np.zeros((60, 120)), "the mask is empty"),
    ],
)
def test_bad_regions_are_one_line(model: pm.Model, region, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        model.chat(asked(pm.image(PICTURE), pm.array(region, "region"), "?"))


def test_a_region_needs_a_picture_before_it(model: pm.Model) -> None:
    with pytest.raises(PromptError, match="a region needs a picture before it; found none"):
        model.chat(asked(pm.array([0.1, 0.2], "region"), pm.image(PICTURE), "?"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"region_geo_sampler": False}, "expected region_geo_sampler true"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end false"),
        ({"sampler_pooler_mode": "sum"}, "pool must be max or mean, found 'sum'"),
        ({"mm_vision_tower": "EVA"}, "mm_vision_tower 'EVA' is neither"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(changes: dict, words: str, tmp_path: Path) -> None:
    config = json.loads(json.dumps({**tiny(100, tmp_path / "clip"), **changes}))
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(config)
