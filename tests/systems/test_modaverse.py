"""ModaVerse as a user meets it: words of the prompt, answers that ask for media, and what a pipeline gets."""

from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check import imagebind_lm
from polymodal.check.demo import train_on_conversations, writer
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError
from polymodal.models.meta_response_lm import read_meta_response
from polymodal.systems.modaverse import SYSTEM
from polymodal.systems.modaverse.processing import BEGIN, END, FLAGS, ModaVerseFormat

EXAMPLES = Path(__file__).parents[2] / "examples"
CAT, SPEECH = EXAMPLES / "cat.jpg", EXAMPLES / "speech.flac"
TALK = ModaVerseFormat(begin="<s>")


def user(*parts: Any) -> Message:
    return Message(role="user", parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def answer(*parts: Any) -> Message:
    return Message(role="assistant", parts=user(*parts).parts)


def test_words_are_those_of_the_published_template() -> None:
    """Pieces as `embed_prompt_template`, `split_media` and `encode_text` of the official code make them."""
    assert written(TALK.render([user("Hi there")], ask=True)) == "<s>### Human:  Hi there\n### Assistant:"
    seen = [user(pm.image(CAT), pm.audio(SPEECH), " Hi there ")]
    assert written(TALK.render(seen, ask=True)) == "<s>### Human:<image><audio>Hi there \n### Assistant:"
    braces = [user(pm.image(CAT), "{} and {media}")]
    assert written(TALK.render(braces, ask=True)) == "<s>### Human:<image>{} and {media}\n### Assistant:"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (answer("A cat."), "Modality: [TEXT] Prompt: A cat. ###"),
        (answer("a cat", pm.image(CAT)), "Modality: [IMAGE] Prompt: a cat ###"),
        (answer("Modality: [VIDEO] Prompt: rain"), "Modality: [VIDEO] Prompt: rain ###"),
        (answer("Modality: [AUDIO] Prompt: rain ###"), "Modality: [AUDIO] Prompt: rain ###"),
    ],
)
def test_answers_are_meta_responses(given: Message, words: str) -> None:
    assert written(TALK.render([user("Hi"), given], ask=False)).endswith(f"Assistant:{words}")


@pytest.mark.parametrize(
    ("text", "modalities", "prompt"),
    [
        ("Modality: [IMAGE] Prompt: a cat on a roof ###", ("image",), "a cat on a roof"),
        ("Modality: [VIDEO][AUDIO] Prompt: rain\non leaves ### Human: x", ("audio", "video"), "rain\non leaves"),
        ("Prompt: no flag", ("text",), "no flag"),
        ("[AUDIO] [AUDIO] [IMAGE] Prompt:  bells  ", ("audio", "image"), "bells"),
        ("Modality: [TEXT] Prompt: see Prompt: twice ###", ("text",), "see Prompt: twice"),
        ("Modality: [IMAGE] Prompt: one ## two ### three", ("image",), "one ## two"),
        ("It is a cat.", ("text",), "It is a cat."),
    ],
)
def test_answers_are_read_as_the_official_parser_reads_them(text: str, modalities: Any, prompt: str) -> None:
    """All rows but the last, at which it fails, were given by modaverse_parser.py @ 9838da4."""
    found = read_meta_response(text)
    assert found.modalities == modalities and found.prompt == prompt


def test_what_was_never_trained_is_refused() -> None:
    with pytest.raises(PromptError, match=r"one instruction .* found 3 messages"):
        TALK.render([user("Hi"), answer("Hello"), user("And?")], ask=True)
    with pytest.raises(PromptError, match="one item of each kind; found more of image"):
        TALK.render([user(pm.image(CAT), pm.image(CAT), "Both?")], ask=True)
    with pytest.raises(PromptError, match="found depth in an answer"):
        TALK.render([user("Hi"), answer("far", pm.image(CAT, "depth"))], ask=False)


class Pipeline:
    """Called as diffusers' are; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.audios = ["a sound"]

    def __call__(self, **given: Any) -> "Pipeline":
        self.told.append(given)
        return self


def test_a_prompt_in_an_answer_reaches_its_pipeline(tmp_path: Path) -> None:
    model_spec = imagebind_lm.write_tiny_folder(tmp_path, SYSTEM, (BEGIN, END, *FLAGS))
    talk = [user(pm.image(CAT), "How does it sound?"), answer("Modality: [AUDIO] Prompt: meow")]
    model = pm.load(tmp_path)
    batch = model.processor([talk])
    learned = batch["labels"][0] >= 0
    assert torch.equal(batch["input_ids"][0][learned], batch["labels"][0][learned])
    words = model.processor.tokenizer.decode(batch["labels"][0][learned].tolist(), skip_special=False)
    assert words == "Modality: [AUDIO] Prompt: meow ###"
    train_on_conversations(model, [talk], writer(tmp_path, model_spec), steps=80)
    model, pipeline = pm.load(tmp_path), Pipeline()
    reply = model.draw([talk[0]], pipelines={"audio": pipeline}, drawing={"num_inference_steps": 3}, temperature=0.0)
    assert reply.text == "meow" and reply.media == {"audio": [["a sound"]]}
    assert pipeline.told == [{"prompt": "meow", "num_inference_steps": 3, "audio_length_in_s": 5.0}]
    with pytest.raises(ConfigError, match="asks for audio; pass a pipeline"):
        model.draw([talk[0]], pipelines={}, temperature=0.0)
