"""BLIP-2, InstructBLIP, MiniGPT-4, Video-LLaMA: prompts byte for byte, pictures as published processors give them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer
from polymodal.data.answering import AnsweringProcessor
from polymodal.data.hf_image import transform_of
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.data.template import written
from polymodal.data.tokenizer import Tokenizer
from polymodal.systems import _blip_chat, _video_llama, minigpt_4

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
PICTURE = pm.image(np.zeros((4, 4, 3), dtype=np.uint8))


def told(text: str) -> Message:
    return Message(role="assistant", parts=(Text(text),))


def shown(template: Any, *messages: Message, ask: bool = True) -> str:
    return written(template.render(_blip_chat.picture_first(messages), ask=ask))


def test_blip_2_prompts() -> None:
    opt = _blip_chat.template(_blip_chat.OPT_WORDS, seq2seq=False)
    t5 = _blip_chat.template(_blip_chat.T5_WORDS, seq2seq=True)
    assert shown(opt, user(PICTURE, "Who?")) == "<image></s>Question: Who? Answer:"
    assert shown(t5, user(PICTURE, "Who?")) == "<image>Question: Who? Short answer:</s>"
    talk = shown(opt, user(PICTURE, "Q1"), told("A1"), user("Q2"))
    assert talk == "<image></s>Question: Q1 Answer: A1. Question: Q2 Answer:"
    assert shown(opt, user(PICTURE)) == "<image></s>"


def test_instructblip_prompts() -> None:
    vicuna = _blip_chat.template(_blip_chat.PLAIN, seq2seq=False)
    assert shown(vicuna, user(PICTURE, "What is unusual?")) == "<image></s>What is unusual?"
    assert shown(vicuna, user(PICTURE, "Who?"), told("A cat"), ask=False) == "<image></s>Who? A cat</s>"


def test_minigpt_4_prompts() -> None:
    system = (
        "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to "
        "you. Please answer my questions."
    )
    vicuna, llama = minigpt_4.template(llama_2=False), minigpt_4.template(llama_2=True)
    asked = [user("Who?"), told("A cat"), user("Where?")]
    expected = f"<s>{system}###Human: Who?###Assistant: A cat###Human: Where?###Assistant: "
    assert written(vicuna.render(asked, ask=True)) == expected
    assert written(llama.render(asked[:1], ask=True)) == f"<s>{system}<s>[INST] Who? [/INST] "
    assert "".join(part.text for part in minigpt_4.BEFORE + minigpt_4.AFTER) == "<Img></Img> "


def test_video_llama_prompts() -> None:
    system = _video_llama.SYSTEM_WORDS
    assert (
        written(_video_llama.template().render([user("Who?")], ask=True)) == f"<s>{system}###Human: Who?###Assistant:"
    )
    llama = written(_video_llama.template(llama_2=True).render([user("Who?")], ask=True))
    assert llama == f"<s>[INST] <<SYS>>\n{_video_llama.LLAMA_2_WORDS}\n<</SYS>>\n\nWho? [/INST]"


@pytest.mark.parametrize("box", [None, (0, 0, 231, 97), (10, 20, 41, 211)])
def test_pictures(box: tuple[int, int, int, int] | None) -> None:
    transformers = pytest.importorskip("transformers")
    picture = Pillow.open(CAT).convert("RGB")
    picture = picture if box is None else picture.crop(box)
    size = {"height": 224, "width": 224}
    ours = transform_of({}, {**_blip_chat.PICTURE, "size": size})(np.asarray(picture))
    theirs = transformers.BlipImageProcessorPil(size=size)(images=picture, return_tensors="pt")["pixel_values"][0]
    assert (ours - theirs).abs().max() <= 1 / 255


def test_answers_go_to_the_decoder(tmp_path: Path) -> None:
    byte_tokenizer(tmp_path, ["<pad>", "</s>"], eos="</s>", pad="<pad>")
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", eos="</s>", pad="<pad>")
    processor = AnsweringProcessor(
        start_id=0, tokenizer=tokenizer, template=_blip_chat.template(_blip_chat.T5_WORDS, seq2seq=True),
        rewrite=_blip_chat.picture_first,
    )  # fmt: skip
    talks = [[user("Who?"), told("cat")], [user("What is it?"), told("a dog")]]
    batch = processor(talks)
    answer = tokenizer.encode("a dog")
    assert batch["decoder_input_ids"][1].tolist() == [0, *answer, 1]
    assert batch["labels"][1].tolist() == [-100, *answer, 1]
    assert tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100].tolist()) == "cat"
    prompt = tokenizer.decode(batch["input_ids"][1][batch["attention_mask"][1].bool()].tolist())
    assert prompt == "Question: What is it? Short answer:"
    asked = processor([talks[0][:1], talks[1][:1]], generate=True)
    assert asked["decoder_input_ids"].tolist() == [[0], [0]] and torch.equal(
        asked["attention_mask"][:, -1], torch.ones(2, dtype=torch.int64)
    )


def test_added_placeholders_lie_behind_the_vocabulary(tmp_path: Path) -> None:
    from polymodal.systems._layout import Files

    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>")
    tokenizer = _video_llama.tokenizer_of(Files(tmp_path))
    assert [tokenizer.special(name) for name in _video_llama.ADDED] == [size, size + 1, size + 2]
