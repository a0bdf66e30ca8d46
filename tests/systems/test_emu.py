"""Emu as a user meets it: prompts, losses, pictures of words and pictures, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check.evidence import emu
from polymodal.check.fixture import read
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.emu.prompt import InstructFormat, PlainFormat

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("emu")
    emu.write_tiny_folder(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> pm.Model:
    return pm.load(folder)


def said(role: str, *parts: Any) -> Message:
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def test_the_pretrained_model_reads_what_is_there() -> None:
    image = pm.image(CAT)
    shown = [said("user", image, "There are two dogs.", image)]
    assert written(PlainFormat().render(shown, ask=True)) == "<s><image>There are two dogs.<image>"
    assert written(PlainFormat().render([*shown, said("assistant", " Yes. ")], ask=False)).endswith("<image>Yes.</s>")
    with pytest.raises(PromptError, match="found none"):
        PlainFormat().render([], ask=True)


def test_emu_i_is_asked_as_in_its_demo() -> None:
    image, talk = pm.image(CAT), InstructFormat()
    system = ("You will be presented with an image:[IMG]ImageContent[/IMG]. You will be able to see the image after I "
              "provide it to you. Please answer my questions based on the given image.")  # fmt: skip
    assert written(talk.render([said("user", image, "what is the man doing?")], ask=True)) == (
        f"<s>{system}[USER]:<image>what is the man doing?[ASSISTANT]:"
    )
    turns = [said("user", "Hi"), said("assistant", "Hello"), said("user", "Who?")]
    assert written(talk.render(turns, ask=True)) == "<s>[USER]: Hi[ASSISTANT]:Hello</s>[USER]: Who?[ASSISTANT]:"
    turns = [said("system", "Be kind."), said("user", "Hi")]
    assert written(talk.render(turns, ask=True)) == "<s>Be kind.[USER]: Hi[ASSISTANT]:"


def test_losses_are_of_words_and_of_vectors(tmp_path: Path) -> None:
    expected = emu.case("", "emu", (2, 1)).make(tmp_path)
    about, _ = read("emu")
    module, ids = pm.load(tmp_path).module, expected.inputs["input_ids"]
    special = torch.isin(ids, torch.tensor([61, 62, 63])) | (expected.inputs["attention_mask"] == 0)
    output = module(**expected.inputs, labels=ids.masked_fill(special, -100))
    wanted = json.loads(about["losses"])
    assert abs(float(output.losses["regression"].detach()) - wanted["regression"]) < 1e-4
    assert output.loss is not None and torch.allclose(output.loss, sum(output.losses.values()))
    output.losses["regression"].backward()
    assert module.regression.weight.grad.abs().max() > 0
    with pytest.raises(PromptError, match=r"every \[IMG\] needs its \[/IMG\]"):
        module(input_ids=torch.tensor([[1, 61]]), labels=torch.tensor([[1, 1]]))
    with pytest.raises(PromptError, match=r"one row that ends in \[IMG\]"):
        module.imagine(input_ids=torch.tensor([[1, 5]]))


def test_pictures_of_words_and_pictures(model: pm.Model) -> None:
    assert model.paints
    told: list[tuple[int, int]] = []
    reply = model.draw(
        pm.image(CAT), "in winter", steps=3, n=2, seed=4, size=(16, 24), step=lambda *at: told.append(at)
    )
    first, second = reply.media["image"]
    assert first.size == second.size == (16, 24) and first.tobytes() != second.tobytes()
    assert told[0] == (1, 8) and told[-1] == (8, 8)
    assert model.draw(pm.image(CAT), steps=1).media["image"][0].size == (16, 16)
    for steps in (0, 10_000):
        with pytest.raises(ConfigError, match=f"steps: expected 1 to 1000 steps of diffusion, found {steps}"):
            model.draw("a cat", steps=steps)
    with pytest.raises(ConfigError, match="size 10x16: expected sides in multiples of"):
        model.draw("a cat", size=(10, 16))


def test_emu_i_does_not_draw(tmp_path: Path) -> None:
    emu.write_tiny_folder(tmp_path, lora_r=4)
    model = pm.load(tmp_path)
    assert not model.paints and "draw" not in model.can
    assert model.processor.tokenizer.special("[ASSISTANT]") == 264
    assert isinstance(model.chat(pm.image(CAT), "What?", max_tokens=3).text, str)


def test_the_published_folder_holds_the_encoder_in_one_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "multimodal_encoder").mkdir()
    for each in folder.iterdir():
        place = tmp_path / "multimodal_encoder" if each.suffix == ".safetensors" else tmp_path
        (place / each.name).symlink_to(each)
    assert pm.load(tmp_path).paints
    with pytest.raises(ConfigError, match=r"vocab_size 36; .* have ids 60, 61 and 62"):
        emu.SYSTEM.formats[0].model_spec(emu.small(36, special_ids=[60, 61, 62]))
