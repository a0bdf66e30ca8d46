"""BLIP-2, InstructBLIP, MiniGPT-4, Video-LLaMA: prompts byte for byte, pictures as published processors give them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer
from polymodal.check.fixture import read
from polymodal.checkpoints import minigpt
from polymodal.checkpoints import qformer_chat as qformer_chat
from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.hf_image import transform_of
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.data.template import written
from polymodal.data.tokenizer import Tokenizer
from polymodal.systems.minigpt_4 import checkpoint as minigpt_4
from polymodal.systems.video_llama import processing as video_llama

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
PICTURE = pm.image(np.zeros((4, 4, 3), dtype=np.uint8))


def told(text: str) -> Message:
    return Message(role="assistant", parts=(Text(text),))


def shown(template: Any, *messages: Message, ask: bool = True) -> str:
    return written(template.render(qformer_chat.picture_first(messages), ask=ask))


def test_blip_2_prompts() -> None:
    opt = qformer_chat.template(qformer_chat.OPT_WORDS, seq2seq=False)
    t5 = qformer_chat.template(qformer_chat.T5_WORDS, seq2seq=True)
    assert shown(opt, user(PICTURE, "Who?")) == "<image></s>Question: Who? Answer:"
    assert shown(t5, user(PICTURE, "Who?")) == "<image>Question: Who? Short answer:</s>"
    talk = shown(opt, user(PICTURE, "Q1"), told("A1"), user("Q2"))
    assert talk == "<image></s>Question: Q1 Answer: A1. Question: Q2 Answer:"
    assert shown(opt, user(PICTURE)) == "<image></s>"


def test_instructblip_prompts() -> None:
    vicuna = qformer_chat.template(qformer_chat.PLAIN, seq2seq=False)
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
    assert written(minigpt.BEFORE + minigpt.AFTER) == "<Img></Img> "


def test_video_llama_prompts() -> None:
    system = video_llama.SYSTEM_WORDS
    assert written(video_llama.template().render([user("Who?")], ask=True)) == f"<s>{system}###Human: Who?###Assistant:"
    llama = written(video_llama.template(llama_2=True).render([user("Who?")], ask=True))
    assert llama == f"<s>[INST] <<SYS>>\n{video_llama.LLAMA_2_WORDS}\n<</SYS>>\n\nWho? [/INST]"


@pytest.mark.parametrize("box", [None, (0, 0, 231, 97), (10, 20, 41, 211)])
def test_pictures(box: tuple[int, int, int, int] | None) -> None:
    transformers = pytest.importorskip("transformers")
    picture = Pillow.open(CAT).convert("RGB")
    picture = picture if box is None else picture.crop(box)
    size = {"height": 224, "width": 224}
    ours = transform_of({}, {**qformer_chat.PICTURE, "size": size})(np.asarray(picture))
    theirs = transformers.BlipImageProcessorPil(size=size)(images=picture, return_tensors="pt")["pixel_values"][0]
    assert (ours - theirs).abs().max() <= 1 / 255


def test_answers_go_to_the_decoder(tmp_path: Path) -> None:
    byte_tokenizer(tmp_path, ["<pad>", "</s>"], eos="</s>", pad="<pad>")
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", eos="</s>", pad="<pad>")
    processor = EncoderDecoderProcessor(
        start_id=0, tokenizer=tokenizer, template=qformer_chat.template(qformer_chat.T5_WORDS, seq2seq=True),
        rewrite=qformer_chat.picture_first,
    )  # fmt: skip
    talks = [[user("Who?"), told("cat")], [user("What is it?"), told("a dog")]]
    batch = processor(talks)
    answer = tokenizer.encode("a dog")
    assert batch["decoder_input_ids"][1].tolist() == [0, *answer, 1]
    assert batch["labels"][1].tolist() == [*answer, 1, -100]
    # A label is what the next input of the decoder will be, never the input itself.
    learned = batch["labels"][:, :-1] != -100
    assert torch.equal(batch["labels"][:, :-1][learned], batch["decoder_input_ids"][:, 1:][learned])
    assert tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100].tolist()) == "cat"
    prompt = tokenizer.decode(batch["input_ids"][1][batch["attention_mask"][1].bool()].tolist())
    assert prompt == "Question: What is it? Short answer:"
    asked = processor([talks[0][:1], talks[1][:1]], generate=True)
    assert asked["decoder_input_ids"].tolist() == [[0], [0]] and torch.equal(
        asked["attention_mask"][:, -1], torch.ones(2, dtype=torch.int64)
    )


def test_added_placeholders_lie_behind_the_vocabulary(tmp_path: Path) -> None:
    from polymodal.checkpoints.record import CheckpointFiles

    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>")
    tokenizer = CheckpointFiles(tmp_path).tokenizer(added=video_llama.ADDED)
    assert [tokenizer.special(name) for name in video_llama.ADDED] == [size, size + 1, size + 2]


def test_official_files_are_joined(tmp_path: Path) -> None:
    """EVA's own file (a block and a head too many), the BLIP-2 file, the linear, the language model in a subfolder."""
    about, tensors = read("minigpt_4")
    weights = randomise.state(json.loads(about["shapes"]))

    def under(*names: str) -> dict[str, torch.Tensor]:
        return {name: x for name, x in weights.items() if name.startswith(names)}

    eva = {name.removeprefix("visual_encoder."): x for name, x in under("visual_encoder.").items()}
    torch.save(eva | {"head.bias": torch.ones(3), "blocks.39.norm1.weight": torch.ones(32)}, tmp_path / "eva.pth")
    bridge = {**under("Qformer", "query", "ln_vision"), "t5_proj.weight": torch.ones(2, 2)}
    torch.save({"model": bridge}, tmp_path / "blip2.pth")
    torch.save({"model": under("llama_proj")}, tmp_path / "minigpt4.pth")
    (tmp_path / "vicuna").mkdir()
    language = {name.removeprefix("llama_model."): x for name, x in under("llama_model.").items()}
    torch.save(language, tmp_path / "vicuna" / "pytorch_model.bin")
    (tmp_path / "vicuna" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "config.json").write_text(about["config"])
    model = pm.load(tmp_path, system="minigpt-4")
    found = model.logits(**{name[3:]: x for name, x in tensors.items() if name.startswith("in.")})
    real = tensors["in.attention_mask"].bool()
    assert (found - tensors["out.logits"])[real].abs().max() <= 1e-4
