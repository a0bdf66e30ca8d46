"""MiniGPT-5: conversations as its training data write them, published files in one folder, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check import randomise, stable_diffusion
from polymodal.check.evidence import minigpt_5
from polymodal.check.fixture import official_weights, read, store
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.systems.minigpt_5.prompt import DRAWS, SEES, VokenFormat
from polymodal.train.signal_objectives import SpokenPictures

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
TALK = VokenFormat(signal=("[IMG0]", "[IMG1]", "[IMG2]"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("minigpt-5")
    minigpt_5.write_tiny_folder(place)
    return place


def said(role: str, *parts: Any) -> Message:
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def test_prompts_are_those_of_the_training_data() -> None:
    image = pm.image(CAT)
    assert written(TALK.render([said("user", "generate image with caption: a cat")], ask=True)) == (
        f"<s>{DRAWS}###Human: generate image with caption: a cat ###Assistant:"
    )
    talk = [
        said("user", "It rains.", image, " What next?"),
        said("assistant", "Sun ", image),
        said("user", "And then?"),
    ]
    assert written(TALK.render(talk, ask=True)) == (
        f"<s>{SEES}###Human: It rains.<image> What next? ###Assistant:Sun[IMG0][IMG1][IMG2]###"
        " ###Human: And then? ###Assistant:"
    )
    talk = [said("system", "Tell."), said("user", "Hi"), said("assistant", "Hello")]
    assert written(TALK.render(talk, ask=False)) == "<s>Tell.###Human: Hi ###Assistant:Hello ###"
    with pytest.raises(PromptError, match="user, assistant, user"):
        TALK.render([said("assistant", "Hello")], ask=True)


def test_labels_keep_the_first_and_the_last_voken(folder: Path) -> None:
    model = pm.load(folder)
    batch = model.processor([[said("user", pm.image(CAT), "next?"), said("assistant", "Sun ", pm.image(CAT))]])
    learned = batch["labels"][0][batch["labels"][0] >= 0].tolist()
    assert model.processor.tokenizer.decode(learned, skip_special=False) == "Sun[IMG0][IMG7]###"
    ids = batch["input_ids"][0].tolist()
    text = model.processor.tokenizer.decode(ids, skip_special=False).replace("<ImageHere>" * 4, "<ImageHere>")
    assert "###Human: <Img><ImageHere></Img>next? ###Assistant:Sun[IMG0][IMG1]" in text


def test_a_picture_takes_the_place_of_a_negative_prompt_of_zeros(folder: Path) -> None:
    model, told = pm.load(folder), []

    class Pipeline:
        images = ("a picture",)

        def __call__(self, **given: Any) -> "Pipeline":
            told.append(given)
            return self

    ids = torch.tensor([[1, *model.module.signals["image"], 5]])
    model.module.render({"image": Pipeline()}, input_ids=ids)
    zeros = model.module.projected("image", torch.zeros(1, 8, 64))
    assert torch.equal(told[0]["negative_prompt_embeds"], zeros) and told[0]["num_inference_steps"] == 50


def split(folder: Path, fixture: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The weights of a fixture as its authors publish them: in files of their own."""
    about, stored = read(fixture)
    weights, config = official_weights(about), json.loads(about["config"])
    (folder / "config.json").write_text(json.dumps(config))
    prefix = "model.llama_model." + ("base_model.model." if config.get("lora_r") else "")
    vicuna, unet, trained, eva, rest = {}, {}, {}, {}, {}
    for name, value in weights.items():
        if name.startswith("unet."):
            unet[name.removeprefix("unet.")] = value
        elif "lora_" in name or "modules_to_save" in name or name.startswith(("fc.", "llm_to", "t2i_")):
            trained[name] = value
        elif name.startswith(prefix):
            vicuna[name.removeprefix(prefix).replace("original_module.", "")] = value
        elif name.startswith("model.visual_encoder."):
            eva[name.removeprefix("model.visual_encoder.")] = value
        else:
            rest[name.removeprefix("model.")] = value
    if not config.get("lora_r"):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            trained[f"{prefix}{name}"] = vicuna[name]
            vicuna[name] = vicuna[name][:-9].clone()
    store(eva, folder / "eva_vit_g.pth", "")
    store(rest, folder / "prerained_minigpt4_7b.pth", "model")
    (folder / "vicuna").mkdir()
    (folder / "vicuna" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    store(vicuna, folder / "vicuna" / "pytorch_model.bin", "")
    place = stable_diffusion.write_folder(folder / "stable-diffusion-2-1-base", 32, linear=True)
    store(unet, place / "unet" / "diffusion_pytorch_model.safetensors", "")
    mapper = {name: trained.pop(name) for name in list(trained) if name.startswith(("fc.", "t2i_"))}
    if config.get("lora_r"):
        store(mapper, folder / "stage1_cc3m.ckpt", "state_dict")
        store(trained, folder / "stage2_vist.ckpt", "state_dict")
    else:
        store({**mapper, **trained}, folder / "stage1_cc3m.ckpt", "state_dict")
    return about, stored


@pytest.mark.parametrize("fixture", ["minigpt_5", "minigpt_5_lora"])
def test_published_files_lie_in_one_folder(fixture: str, tmp_path: Path) -> None:
    about, stored = split(tmp_path, fixture)
    given = {name: stored[f"in.{name}"] for name in ("input_ids", "attention_mask")}
    given["pixel_values"] = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"])
    model, mask = pm.load(tmp_path), given["attention_mask"].bool()
    assert (model.logits(**given)[mask] - stored["out.logits"][mask]).abs().max() < 1e-4
    (tmp_path / "stage1_cc3m.ckpt").rename(tmp_path / "stage3.ckpt")
    (tmp_path / "another.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"expected \d \.ckpt for the (first|second) stage"):
        pm.load(tmp_path)


def test_refusals_say_what_was_expected(folder: Path) -> None:
    module = pm.load(folder).module
    loss = SpokenPictures().build(module)
    ids = torch.tensor([[1, *module.signals["image"], 5]])
    with pytest.raises(ConfigError, match="1 signals in the batch, but latents of none pictures"):
        loss(module, {"input_ids": ids, "labels": ids})
    assert set(loss(module, {"input_ids": ids[:, -1:].repeat(1, 3), "labels": ids[:, -1:].repeat(1, 3)})) == {"text"}
    with pytest.raises(ConfigError, match="a SignalTokenLM with a generator is needed, not a Linear"):
        SpokenPictures().build(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="has_qformer false is not supported"):
        minigpt_5.SYSTEM.formats[0].model_spec(minigpt_5.small(48, has_qformer=False))
    with pytest.raises(ConfigError, match="steps: expected 1 to 1000 steps of diffusion, found 10000"):
        pm.load(folder).draw("a cat", steps=10_000)
