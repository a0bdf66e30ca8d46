"""PaLI-X: its prompts byte for byte, pictures in front, boxes there and back, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import pali_x
from polymodal.check.film import film
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.pali_x.boxes import box_text, ground, read_boxes
from polymodal.systems.pali_x.prompts import asking, caption, detect, ocr, question

PICTURES = [Pillow.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
RED, BLUE = map(pm.image, PICTURES)


def folder(place: Path, **more: Any) -> pm.Model:
    torch.manual_seed(0)
    config = pali_x.small(byte_tokenizer(place, pali_x.SPECIALS, eos="</s>", pad="<pad>")) | more
    write_config(place, config=config)
    model_spec = pali_x.SYSTEM.formats[0].model_spec(config)
    write_weights(place, model_spec.build(), model_spec.keys[0])
    return pm.load(place)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pm.Model:
    return folder(tmp_path_factory.mktemp("pali_x"))


def user(*parts: Media | str) -> Message:
    return Message(role="user", parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def answer(text: str) -> Message:
    return Message(role="assistant", parts=(Text(text),))


def prompt(model: pm.Model, *messages: Message) -> tuple[int, str]:
    """How many features stand in front, and the words behind them."""
    ids = model.processor(list(messages), generate=True)["input_ids"][0].tolist()
    size = model.module.backbone.config.vocab_size
    seen = [index for index, each in enumerate(ids) if each >= size]
    assert seen == list(range(len(seen)))
    return len(seen), model.processor.tokenizer.decode(ids[len(seen) :], skip_special=False)


@pytest.mark.parametrize(
    ("parts", "seen", "words"),
    [
        ((RED, "What is it?"), 4, "Answer in EN: What is it?"),
        (("What is between ", RED, " and ", BLUE, "?"), 8, "Answer in EN: What is between  and ?"),
        ((RED, question("Was ist das?", "de")), 4, "Answer in DE: Was ist das?"),
        ((RED,), 4, "Generate the alt_text in EN at 0:"),
        ((RED, caption("fr", "Un chien")), 4, "Generate the alt_text in FR at 8: Un chien"),
        ((RED, ocr()), 4, "Generate the ocr_text in EN:"),
        ((RED, asking("a dog")), 4, "Generate a question in EN for a dog:"),
        ((RED, detect("a dog", "a cat")), 4, "Detect a dog and a cat:"),
        (("Miami Beach borders which ocean?",), 0, "Answer in EN: Miami Beach borders which ocean?"),
    ],
)
def test_prompts_are_those_of_pali(model: pm.Model, parts: Any, seen: int, words: str) -> None:
    assert prompt(model, user(*parts)) == (seen, f"{words} <extra_id_0></s>")


def test_pictures_of_all_shots_stand_in_front(model: pm.Model) -> None:
    shots = [user(RED, "What is it?"), answer("red"), user(BLUE, "And this?")]
    assert prompt(model, *shots) == (8, "Answer in EN: What is it? red Answer in EN: And this? <extra_id_0></s>")


def test_the_answer_is_learned_with_its_end(model: pm.Model) -> None:
    batch = model.processor([user(RED, "What is it?"), answer("red")])
    learned = batch["labels"][0]
    assert model.processor.tokenizer.decode(learned[learned >= 0].tolist(), skip_special=False) == "red</s>"
    assert batch["decoder_input_ids"][0, 0] == 0


def test_films_are_frames_behind_one_another(model: pm.Model) -> None:
    video = pm.video(film([PICTURES[0]] * 3 + [PICTURES[1]] * 3))
    batch = model.processor([user(video, "What is it?")], generate=True)
    assert batch["video_values"].shape == (1, 2, 3, 56, 56) and batch["item_tokens"]["video"] == (8,)
    frames = model.features(pixel_values=batch["video_values"][0])["image"].flatten(0, 1)
    torch.testing.assert_close(model.features(video_values=batch["video_values"])["video"][0], frames)


def test_a_picture_too_many_names_count_and_limit(tmp_path: Path) -> None:
    model = folder(tmp_path, max_length=40)
    with pytest.raises(PromptError, match=r"\d+ tokens.*40"):
        model.chat(RED, BLUE, RED, BLUE, RED, "What?", max_tokens=4)


def test_users_cannot_type_the_marks(model: pm.Model) -> None:
    ids = model.processor([user("a</s>b<extra_id_0>")], generate=True)["input_ids"][0].tolist()
    marks = [model.processor.tokenizer.special(name) for name in ("</s>", "<extra_id_0>")]
    assert [ids.count(mark) for mark in marks] == [1, 1]


def test_boxes_go_there_and_back() -> None:
    boxes = {"dog": (0.1, 0.2, 0.6, 0.9), "red traffic light 2": (0.0, 0.0, 1.0, 1.0)}
    text = " ".join(box_text(name, box) for name, box in boxes.items())
    assert text == "200 100 900 600 dog 0 0 999 999 red traffic light 2"
    for thing, (name, box) in zip(read_boxes(text), boxes.items(), strict=True):
        assert thing.label == name and max(abs(a - b) for a, b in zip(thing.box, box, strict=True)) <= 1e-3
    found = ground(text, [RED, BLUE])
    assert found.text == "dog, red traffic light 2" and [each.picture for each in found.things] == [1, 1]
    assert ground("It has 4 legs", [RED]).things == () and read_boxes("1 2 3 dog") == ()


@pytest.mark.parametrize("box", [(0.5, 0.1, 0.2, 0.3), (0.0, 0.0, 1.2, 1.0), (0.3, 0.3, 0.3, 0.6), (-0.1, 0, 1, 1)])
def test_boxes_outside_of_a_picture_are_refused(box: Any) -> None:
    with pytest.raises(PromptError, match=r"expected left < right and top < bottom within 0\.\.1"):
        box_text("dog", box)


def test_answers_with_boxes_that_are_none() -> None:
    with pytest.raises(PromptError, match="numbers from 0 to 999"):
        read_boxes("0 0 1200 10 dog")
    with pytest.raises(PromptError, match="negative size"):
        read_boxes("500 0 99 500 dog")


def test_prompts_that_cannot_be_written() -> None:
    with pytest.raises(PromptError, match="position 3 lies within the 8 characters"):
        caption(begun="Un chien", position=3)
    with pytest.raises(PromptError, match="name of one thing"):
        detect()


def test_an_answer_alone_is_no_talk(model: pm.Model) -> None:
    with pytest.raises(PromptError, match="expected a question, found an answer alone"):
        model.processor([answer("red")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": {"model_type": "opt"}}, "text_config.model_type: expected 't5', found 'opt'"),
        ({"vision_config": {"model_type": "swin"}}, "expected vit or vit-22b, found 'swin'"),
        ({"video_frames": 0}, "video_frames: expected a whole number above 0, found '0'"),
    ],
)
def test_configs_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pali_x.SYSTEM.formats[0].model_spec(pali_x.small(300) | change)


def test_another_system_s_folder_stays_its(tmp_path: Path) -> None:
    folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert pm.load(tmp_path).system.id == "pali-x"
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "t5x"}))
    with pytest.raises(Exception, match="t5x"):
        pm.load(tmp_path)
