"""NExT-GPT as a user meets it: words, labels with signals, chat on real media, and pictures by a pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check import imagebind_lm
from polymodal.check.demo import train_on_conversations, writer
from polymodal.data.imagebind_formats import NExTGPTFormat
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.errors import ConfigError
from polymodal.systems.next_gpt import SYSTEM
from polymodal.systems.next_gpt.checkpoint import PLACEHOLDERS

EXAMPLES = Path(__file__).parents[2] / "examples"
CAT, SPEECH = EXAMPLES / "cat.jpg", EXAMPLES / "speech.flac"
COUNTS = {"num_gen_img_tokens": 2, "num_gen_video_tokens": 3, "num_gen_audio_tokens": 2, "num_clip_tokens": 4}
LAST = ("<Img>", "</Img>", "[IMG0]", "[IMG1]", "[VID0]", "[VID1]", "[VID2]", "[AUD0]", "[AUD1]")
TALK = NExTGPTFormat(begin="<s>", signals={"image": ("[IMG0]", "[IMG1]")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("next-gpt")
    imagebind_lm.write_tiny_folder(place, SYSTEM, LAST, **COUNTS)
    return place


def user(*parts: Any) -> Message:
    return Message(role="user", parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def answer(*parts: Any) -> Message:
    return Message(role="assistant", parts=user(*parts).parts)


def test_words_are_those_of_the_published_demo() -> None:
    image = pm.image(CAT)
    assert written(TALK.render([user("Hi")], ask=True)) == "<s>### Human: Hi\n### Assistant:"
    assert written(TALK.render([user("Hi"), answer("Hello")], ask=False)) == (
        "<s>### Human: Hi\n### Assistant: Hello\n###"
    )
    talk = [user("Hi"), answer("Here:", image), user(image, "Why?")]
    assert written(TALK.render(talk, ask=True)) == (
        "<s>### Human: Hi\n### Assistant: Here:[IMG0][IMG1]\n### Human:<image><s> Why?\n### Assistant:"
    )
    assert written(TALK.render([user("Look ", image, pm.image(CAT), "and say")], ask=True)) == (
        "<s>### Human: Look<image><image><s> and say\n### Assistant:"
    )


def test_labels_hold_the_answer_and_its_signals(folder: Path) -> None:
    processor = pm.load(folder).processor
    image = pm.image(CAT)
    batch = processor([[user(image, "Draw it again"), answer("Gladly", image)], [user("Hi"), answer("Hello")]])
    for row, words in ((0, "Gladly[IMG0][IMG1]\n###"), (1, "Hello\n###")):
        learned = batch["labels"][row] >= 0
        assert torch.equal(batch["input_ids"][row][learned], batch["labels"][row][learned])
        assert processor.tokenizer.decode(batch["labels"][row][learned].tolist(), skip_special=False) == words
    assert batch["vision"].shape == (1, 3, 224, 224)


def test_media_are_asked_about_at_places_of_their_own(folder: Path) -> None:
    model = pm.load(folder)
    content = (pm.image(CAT), pm.audio(SPEECH), pm.image(CAT))
    asked = model.processor([user(*content, "What?")], generate=True)
    ids = asked["input_ids"][0].tolist()
    assert [each for each in ids if each < 0] == [PLACEHOLDERS[name] for name in ("image", "audio", "image")]
    opening, closing = (model.processor.tokenizer.special(name) for name in ("<Img>", "</Img>"))
    assert ids.count(opening) == ids.count(closing) == 3
    reply = model.chat(*content, "What?", max_tokens=4)
    found = model.generate(**asked, max_new_tokens=4, eos_token_id=None)[0, len(ids) :].tolist()
    assert reply.text == model.processor.tokenizer.decode(found).partition("###")[0]
    assert reply.tokens["image"] == 2 and reply.tokens["audio"] == 1


class Pipeline:
    """Called as diffusers' are; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.images = ["a picture"]

    def __call__(self, **given: Any) -> "Pipeline":
        self.told.append(given)
        return self


def test_signals_in_an_answer_are_drawn(tmp_path: Path) -> None:
    model_spec = imagebind_lm.write_tiny_folder(tmp_path, SYSTEM, LAST, **COUNTS)
    talk = [user("Draw a cat"), answer("Yes", pm.image(CAT), pm.image(CAT))]
    train_on_conversations(pm.load(tmp_path), [talk], writer(tmp_path, model_spec), steps=60)
    model = pm.load(tmp_path)
    pipeline = Pipeline()
    reply = model.draw("Draw a cat", pipelines={"image": pipeline}, drawing={"num_inference_steps": 3}, max_tokens=20)
    assert reply.text.strip() == "Yes"
    assert reply.media == {"image": [["a picture"], ["a picture"]]}
    assert [given["prompt_embeds"].shape for given in pipeline.told] == [(1, 4, 768)] * 2
    assert {given["num_inference_steps"] for given in pipeline.told} == {3}
    with pytest.raises(ConfigError, match="pass a pipeline"):
        model.draw("Draw a cat", pipelines={}, max_tokens=20)
