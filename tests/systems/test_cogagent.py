"""CogAgent: a picture at two sizes, prompts, boxes, and what is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.fixture import read
from polymodal.checkpoints.cog_boxes import PLACES, grounded
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.cogagent import SYSTEM
from polymodal.systems.cogagent.checkpoint import FORMS, parse_config, written_out
from polymodal.systems.cogvlm import SYSTEM as COGVLM
from tiny_folders import tiny

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
DOT = np.zeros((4, 4, 3), np.uint8)


def said(role, *content):
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in content))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny("cogagent", tmp_path_factory.mktemp("cogagent"))


def test_prompts_byte_for_byte():
    talk = [said("user", pm.image(DOT), "Where?"), said("assistant", "There."), said("user", "Why?")]
    found = {version: written_out(talk, version)[0].text for version in FORMS}
    assert found == {
        "base": "Why?",
        "chat": " [INST] Where? [/INST] There. [INST] Why? [/INST] ",
        "chat_old": "Question: Where? Answer: There.\nQuestion: Why? Answer:",
        "vqa": "Question: Why? Short answer:",
    }
    braces = written_out([said("user", "{history} {}")], "chat")[0].text
    assert braces == " [INST] {history} {} [/INST] "


def test_a_picture_is_written_once_and_read_at_both_sizes(model):
    cat = Pillow.open(CAT).convert("RGB")
    batch = model.processor([said("user", "Hi", pm.image(CAT))], generate=True)
    assert batch["input_ids"][0, :19].tolist() == [1, *[0] * 18]
    assert batch["token_type_ids"][0].sum() == 18
    for name, side in (("images", 56), ("cross_images", 112)):
        pixels = torch.from_numpy(np.array(cat.resize((side, side), Pillow.Resampling.BICUBIC))).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
        assert (batch[name][0] - (pixels - mean) / std).abs().max() <= 1e-5


@torch.no_grad()
def test_every_token_sees_the_large_picture_and_only_its_own(model):
    talks = [[said("user", pm.image(CAT), "a longer one")], [said("user", "words")], [said("user", pm.image(DOT), "b")]]
    batch = model.processor(talks, generate=True)
    batch.pop("labels", None)
    found, width = model.module(**batch).logits, batch["input_ids"].shape[1]
    for row, talk in enumerate(talks):
        alone = model.processor(talk, generate=True)
        alone.pop("labels", None)
        logits = model.module(**alone).logits[0]
        assert (found[row, width - len(logits) :] - logits).abs().max() <= 1e-5
    other = model.module(**{**batch, "cross_images": batch["cross_images"] + 1}).logits
    moved = (other - found).abs().amax(-1)
    begin = int(batch["attention_mask"][0].argmax())
    assert (moved[0, begin:] > 1e-4).all(), "the begin token, in front of the picture, sees it too"
    assert not moved[1].any()


def test_both_sizes_must_be_there(model):
    batch = model.processor([said("user", pm.image(CAT), "a")], generate=True)
    batch.pop("labels", None)
    with pytest.raises(PromptError, match="found 1 of image and 0 of detail"):
        model.module(**{name: value for name, value in batch.items() if name != "cross_images"})


def test_more_turns_and_questions_on_the_same_picture(model):
    chat = [said("user", pm.image(CAT), "a"), said("assistant", "b"), said("user", "c")]
    first = model.chat(chat, max_tokens=5).text
    again = model.processor(chat, generate=True)
    again.pop("labels", None)
    ids = model.generate(**again, max_new_tokens=5)
    assert model.processor.tokenizer.decode(ids[0, again["input_ids"].shape[1] :].tolist()).startswith(
        first.strip()[:1]
    )
    assert model.chat(chat, max_tokens=5).text == first


def test_boxes_are_thousandths_with_three_digits():
    box = (0.0861, 0.54, 0.4, 1.0)
    text = PLACES.write([box], (300, 200))
    assert f"[{text}]" == "[[086,540,400,999]]"
    answer = "Open it.\nGrounded Operation:[combobox] Search -> TYPE: CogVLM at the box [[212,498,787,564]]"
    found = grounded(answer, [object()])
    assert found.text.endswith("CogVLM at the box")
    assert [(thing.label, thing.box) for thing in found.things] == [("CogVLM at the box", (0.212, 0.498, 0.787, 0.564))]
    two = grounded("Two cats [[000,010,100,200;300,000,999,500]] and a dog [[001,002,003,004]].", [object()])
    assert [thing.label for thing in two.things] == ["Two cats", "Two cats", "and a dog"]
    assert grounded("no [[1,2,3]] box", [object()]).things == ()


def test_what_is_refused_is_named():
    with pytest.raises(PromptError, match="cogagent takes one picture a conversation; found 2"):
        written_out([said("user", pm.image(DOT), pm.image(DOT))], "chat")
    with pytest.raises(PromptError, match="found detail"):
        written_out([said("user", pm.image(DOT, modality="detail"))], "chat")
    for changes, words in (
        ({"template_version": "new"}, "template_version"),
        ({"cross_compute_hidden_size": 512}, "cross_compute_hidden_size"),
        ({"cross_vision_config": {"hidden_size": 512}}, "cross_vision_config"),
        ({"cross_vision_config": {"use_rope": False}}, "use_rope"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_config({**(SYSTEM.variants[0].config or {}), **changes})


@pytest.mark.parametrize(("fixture", "system"), [("cogagent", SYSTEM), ("cogvlm", COGVLM)])
def test_published_folders_name_no_model_type(fixture, system):
    config = {**json.loads(read(fixture)[0]["config"])}
    config.pop("model_type", None)
    assert system.formats[0].matches(config)
    assert not system.formats[0].matches({**config, "architectures": ["LlamaForCausalLM"]})
