"""Gemini's messages and pictures: prompts byte for byte, codes against the library's codec, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check import library, randomise
from polymodal.check.demo import write_config, write_weights
from polymodal.check.evidence import gemini as evidence
from polymodal.check.film import film
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.systems.gemini import SYSTEM

RED = pm.image(Pillow.new("RGB", (61, 47), "red"))
NOISE = pm.audio((np.sin(np.arange(4000)).astype(np.float32), 16_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gemini")
    evidence.written_folder(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> pm.Model:
    return pm.load(folder)


def prompt(model: pm.Model, *messages: Any, generate: bool = True) -> str:
    """The prompt with one mark in place of all features of an item."""
    ids = model.processor(list(messages), generate=generate)["input_ids"][0].tolist()
    text: str = model.processor.tokenizer.decode(ids, skip_special=False)
    return text.replace("<image>" * 4, "<image>").replace("<audio>" * 20, "<audio>")


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_media_stand_where_they_are_said(model: pm.Model) -> None:
    clip = pm.media(film([Pillow.new("RGB", (48, 32), colour) for colour in ("red", "blue", "green")]))
    assert prompt(model, user("See ", RED, " hear ", NOISE, " watch ", clip, " now")) == (
        "<bos><start_of_turn>user\nSee <image> hear <audio> watch <image><image><image> now<end_of_turn>\n"
        "<start_of_turn>model\n"
    )


def test_a_picture_in_an_answer_is_its_tokens_and_is_learned(model: pm.Model) -> None:
    talk = [user("Draw red."), {"role": "assistant", "content": ["Here: ", RED]}, user("Again?")]
    codes = model.module.picture_codes(model.processor.rewrite.transform(RED.picture)[None])[0].flatten().tolist()  # type: ignore[operator,union-attr]
    written = "<picture>" + "".join(f"<picture {code}>" for code in codes) + "</picture>"
    assert len(codes) == 16 and prompt(model, *talk) == (
        "<bos><start_of_turn>user\nDraw red.<end_of_turn>\n<start_of_turn>model\nHere: " + written + "<end_of_turn>\n"
        "<start_of_turn>user\nAgain?<end_of_turn>\n<start_of_turn>model\n"
    )
    batch = model.processor(talk[:2])
    learned = batch["labels"][0][batch["labels"][0] != -100].tolist()
    assert model.processor.tokenizer.decode(learned, skip_special=False) == f"Here: {written}<end_of_turn>"


def test_a_long_video_is_sixteen_of_its_frames(model: pm.Model) -> None:
    clip = pm.media(film([Pillow.new("RGB", (32, 32), (7 * i, 0, 0)) for i in range(30)]))
    batch = model.processor([user(clip, "What?")], generate=True)
    assert batch["pixel_values"].shape == (16, 3, 32, 32)
    shades = ((batch["pixel_values"][:, 0].mean((1, 2)) + 1) * 127.5 / 7).round().int().tolist()
    assert shades == np.linspace(0, 29, 16).round().astype(int).tolist()


def test_pictures_are_read_as_siglip_reads_them(model: pm.Model) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = model.processor([user(pm.image(Pillow.fromarray(noise)), "?")], generate=True)["pixel_values"][0]
    with library.quiet() as transformers:
        official = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    wanted = torch.as_tensor(np.asarray(official(Pillow.fromarray(noise))["pixel_values"][0]))
    assert (found - wanted).abs().max() < 1e-5


def test_written_pictures_are_those_of_the_librarys_codec(tmp_path: Path) -> None:
    expected = evidence.EVIDENCE.cases[0].make(tmp_path)
    module: Any = pm.load(tmp_path).module
    config = json.loads((tmp_path / "config.json").read_text())
    pixels = randomise.values("written", (2, 3, 16, 16))
    with library.quiet() as transformers, torch.no_grad():
        oracle = evidence.Composite(transformers, config).eval()
        randomise.fill(oracle)
        codes, drawn = oracle.codes(pixels), oracle.vq_model.decode(oracle.codes(pixels).unflatten(1, (4, 4)))
    ids = module.spelling(module.picture_codes(pixels))
    assert torch.equal(ids, codes + evidence.WORDS) and (module.pixels(ids, 4, 4) - drawn).abs().max() < 1e-4
    assert expected.logits is not None and expected.logits.shape[-1] == evidence.WORDS + evidence.CODES


def test_the_codec_does_not_learn(model: pm.Model) -> None:
    module = SYSTEM.formats[0].model_spec(model_config()).build().train()
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in module.named_parameters() if name.startswith("generators.")}
    assert module.encoders.training and not any(each.training for each in module.generators.modules())


def test_it_draws_from_words_pictures_and_sound(model: pm.Model) -> None:
    drawn = model.draw("Like ", RED, " and ", NOISE, n=2, seed=3).media["image"]
    again = model.draw("Like ", RED, " and ", NOISE, seed=4).media["image"][0]
    assert [each.size for each in drawn] == [(16, 16)] * 2 and np.array_equal(np.asarray(drawn[1]), np.asarray(again))
    for given, told in (({"size": (32, 16)}, "size 32x16: this model writes 16x16"), ({"steps": 5}, "id by id")):
        with pytest.raises(ConfigError, match=told):
            model.draw("red", **given)
    with pytest.raises(ConfigError, match=r"take 1,\d+ ids, the model's context holds 512"):
        model.draw("red " * 300)


def test_what_it_cannot_read_costs_a_line(model: pm.Model) -> None:
    with pytest.raises(PromptError, match="answers in words and pictures, found audio in one"):
        model.processor([user("Speak."), {"role": "assistant", "content": [NOISE]}])
    with pytest.raises(MediaError, match=r"recording of 1.00 s is longer than the window of 0.4 s"):
        model.chat("What?", pm.audio((np.ones(16_000, np.float32), 16_000)))
    with pytest.raises(PromptError, match=r"tokens \(.*160 image.*\) for a limit of 512"):
        model.processor([user(*[RED] * 40, "a" * 400)], generate=True)
    with pytest.raises(PromptError, match="no role 'system'"):
        model.chat([{"role": "system", "content": "a"}, user("b")])


def test_nothing_was_released() -> None:
    with pytest.raises(ConfigError, match="gemini:illustrative: no weights were released"):
        pm.load("gemini")


def model_config(**changes: Any) -> dict[str, Any]:
    return {"model_type": "gemini", "text_config": evidence.TEXT, "vision_config": evidence.VISION,
            "audio_config": evidence.SOUND, "vq_config": evidence.STILL, "image_size": 16, **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text_config": {**evidence.TEXT, "num_key_value_heads": 3}}, "num_key_value_heads: expected 1.*found 3"),
        ({"image_size": 18}, "image_size: expected a multiple of 4 pixels, a code's side, found 18"),
        ({"image_size": "big"}, "image_size: expected a multiple"),
        ({"audio_config": {"activation_function": "relu"}}, "expected activation_function gelu"),
    ],
)
def test_other_options_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SYSTEM.formats[0].model_spec(model_config(**changes))


@pytest.mark.parametrize(
    ("more", "told"),
    [(1, r"the tokenizer has no <picture 24>; expected <picture 0> to <picture 24> and the marks <picture>"),
     (-1, r"expected picture tokens of ids \d+\.\.\d+, found")],
)  # fmt: skip
def test_a_tokenizer_of_other_picture_tokens_is_refused(tmp_path: Path, more: int, told: str) -> None:
    config = evidence.written_folder(tmp_path)
    config["text_config"]["vocab_size"] -= more
    config["vq_config"] = {**config["vq_config"], "codebook_size": evidence.CODES + more}
    model_spec = SYSTEM.formats[0].model_spec(config)
    write_config(tmp_path, config=config)
    write_weights(tmp_path, model_spec.build(), model_spec.keys[0])
    with pytest.raises(ConfigError, match=told):
        pm.load(tmp_path)
