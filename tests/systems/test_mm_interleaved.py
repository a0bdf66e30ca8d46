"""MM-Interleaved: conditions of pictures, documents as published, pictures as the official transform makes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

import polymodal as pm
from polymodal import systems
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.mm_interleaved import EVIDENCE, QUERIES, small
from polymodal.check.fixture import read
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.transforms import HalvedCrop
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.mm_interleaved import SYSTEM
from polymodal.systems.mm_interleaved.checkpoint import FIRST, IMAGE, LAST, MARK
from tiny_llama import llama_pipeline

SPECIALS = {"<unk>": 0, FIRST: 1, LAST: 2, MARK: 259, IMAGE: 260}
PICTURE = Image.new("RGB", (40, 30), "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mm_interleaved")
    config = small(byte_tokenizer(made, SPECIALS), 259)
    write_config(made, config=config)
    torch.manual_seed(0)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(made, spec.build(), spec.keys[0])
    return made


@pytest.mark.parametrize("name", ["mm_interleaved", "mm_interleaved_small"])
def test_conditions_are_the_official_ones(name: str, tmp_path: Path) -> None:
    case = EVIDENCE.cases[name.endswith("small")]
    expected = case.make(tmp_path)
    with torch.no_grad():
        found = pm.load(tmp_path).module.conditions(**expected.inputs)["image"]
    assert (found - read(name)[1]["out.conditions"]).abs().max() < 1e-5


def prompt(folder: Path, messages: list[Message], *, ask: bool) -> tuple[str, dict]:
    processor = pm.load(folder).processor
    batch = processor(messages, generate=ask)
    return processor.tokenizer.decode(batch["input_ids"][0].tolist(), skip_special=False), batch


def test_a_document_is_written_as_published(folder: Path) -> None:
    picture, said = pm.image(PICTURE), MARK + IMAGE * QUERIES
    asked = Message(role="user", parts=(pm.text("What is "), picture, pm.text(" this? "), pm.text("Say it.")))
    answer = Message(role="assistant", parts=(pm.text("A square"), picture))
    text, _ = prompt(folder, [asked], ask=True)
    assert text == f"<s>What is{said}this? Say it."
    text, batch = prompt(folder, [asked, answer], ask=False)
    assert text == f"<s>What is{said}this? Say it. A square{said}</s>"
    learned = batch["input_ids"][0][batch["labels"][0] >= 0].tolist()
    assert pm.load(folder).processor.tokenizer.decode(learned, skip_special=False) == f" A square{MARK}</s>"
    assert prompt(folder, [Message(role="user", parts=(picture,))], ask=True)[0] == f"<s>{said}a photo of"
    with pytest.raises(PromptError, match="expected a text or a picture"):
        prompt(folder, [Message(role="user", parts=(pm.text(" "),))], ask=True)


def official_crop(picture: Image.Image, size: int) -> np.ndarray:
    """The formula of the published transform, in plain Pillow."""
    while min(*picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), resample=Image.Resampling.BOX)
    scale = size / min(*picture.size)
    picture = picture.resize(tuple(round(side * scale) for side in picture.size), resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, dtype=np.float32) / 255
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [(61, 40), (40, 97), (224, 64), (33, 32), (20, 31)])
def test_pictures_are_halved_resized_and_cut(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    wanted = (official_crop(picture, 32) - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    found = HalvedCrop(size=32)(picture).permute(1, 2, 0).numpy()
    assert np.abs(found - wanted).max() < 1e-5


def test_a_token_sees_the_pictures_of_its_own_document_only(folder: Path) -> None:
    model = pm.load(folder).module
    picture = [259, *[260] * QUERIES]
    ids = torch.tensor([[1, 5, *picture, 6, *picture, 7, 1, 8, *picture, 9]])
    features = {"image": torch.zeros(3, 40, 48)}
    seen = model.context(features, {"input_ids": ids}).visible[0].int().tolist()
    at = {name: ids[0].tolist().index(name) for name in (5, 6, 7, 8, 9)}
    assert [seen[at[name]] for name in (5, 6, 7, 8, 9)] == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert seen[at[5] + 1] == [0, 0, 0] and seen[at[5] + 2] == [1, 0, 0]  # the mark does not see its picture
    with pytest.raises(PromptError, match="3 pictures have placeholders, 2 pictures are given"):
        model.context({"image": torch.zeros(2, 40, 48)}, {"input_ids": ids})


def test_a_batch_of_text_alone_is_that_text_beside_a_picture(folder: Path) -> None:
    model = pm.load(folder)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if ".cross." in name:
                weight.normal_()
    text = model.logits(input_ids=torch.tensor([[1, 5, 6, 7, 8, 9, 10]]))
    picture = [1, 259, *[260] * QUERIES, 5]
    both = model.logits(
        input_ids=torch.tensor([[1, 5, 6, 7, 8, 9, 10], picture]), pixel_values=torch.randn(1, 3, 16, 16)
    )
    assert (both[0] - text[0]).abs().max() < 1e-5


def test_a_picture_is_asked_for_where_an_answer_ends_without_one(folder: Path) -> None:
    module, asked = pm.load(folder).module, []

    def pipeline(**given: object):
        asked.append(given)
        return type("Made", (), {"images": ["drawn"]})

    ids = torch.tensor([[1, 5, 6, 7]])
    assert module.render({"image": pipeline}, input_ids=ids) == {"image": [["drawn"]]}
    marked = torch.cat((ids, torch.tensor([[259]])), 1)
    module.render({"image": pipeline}, {"num_inference_steps": 3}, input_ids=marked)
    first, second = asked
    assert torch.equal(first["prompt_embeds"], second["prompt_embeds"]) and first["prompt_embeds"].shape == (1, 4, 32)
    assert first["negative_prompt_embeds"] is module.empty and first["guidance_scale"] == 7.5
    assert (first["num_inference_steps"], second["num_inference_steps"]) == (30, 3)
    with pytest.raises(ConfigError, match="pass a pipeline"):
        module.render({}, input_ids=ids)
    with pytest.raises(PromptError, match="found 2 rows"):
        module.render({"image": pipeline}, input_ids=ids.repeat(2, 1))


def test_too_many_pictures_are_refused_by_number(folder: Path) -> None:
    model, picture = pm.load(folder), [259, *[260] * QUERIES]
    ids = torch.tensor([[1, *picture * 50]])
    with pytest.raises(PromptError, match="may see 49 pictures; found 50"):
        model.logits(input_ids=ids, pixel_values=torch.zeros(50, 3, 16, 16))


def test_a_tokenizer_with_other_marks_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    byte_tokenizer(tmp_path, {**SPECIALS, MARK: 300, IMAGE: 301})
    spec = SYSTEM.formats[0].model_spec(config)
    with pytest.raises(ConfigError, match=r"is token 300, expected 259"):
        spec.assemble(spec.build(), systems.CheckpointFiles(tmp_path))


def test_sizes_that_the_adapter_cannot_have_are_refused() -> None:
    config = small(62, 60)
    for name, value, word in (("num_hidden_layers", 6, "multiple of 4"), ("image_size", 24, "even number of patches")):
        with pytest.raises(ConfigError, match=word):
            SYSTEM.formats[0].model_spec({**config, "vision_config": {**config["vision_config"], name: value}})


@pytest.mark.parametrize("space", ["every", "first"])
def test_ids_are_those_of_the_published_calls(space: str, tmp_path: Path) -> None:
    """The published tokenizer strips a text where it meets a special token, and tokenises it as one of its own."""
    oracle = PreTrainedTokenizerFast(tokenizer_object=llama_pipeline(space, (MARK, IMAGE)), bos_token="<s>",
                                     eos_token="</s>", unk_token="<unk>")  # fmt: skip
    oracle.save_pretrained(tmp_path)
    mark, image = oracle.convert_tokens_to_ids([MARK, IMAGE])
    config = small(image + 1, mark)
    spec = SYSTEM.formats[0].model_spec(config)
    processor = spec.assemble(spec.build(), systems.CheckpointFiles(tmp_path)).processor
    asked = Message(role="user", parts=(pm.text("What is "), pm.image(PICTURE), pm.text(" this?"), pm.text("Say it.")))
    answer = Message(role="assistant", parts=(pm.text("A cat."),))
    first, second = (
        oracle(text, add_special_tokens=False)["input_ids"] for text in ("What is", "this? Say it. A cat.")
    )
    ids = processor([asked, answer])["input_ids"][0].tolist()
    assert ids == [1, *first, mark, *[image] * QUERIES, *second, 2]


def test_an_answer_ends_where_it_asks_for_a_picture(folder: Path) -> None:
    model = pm.load(folder)
    with torch.no_grad():
        model.module.backbone.lm_head.new.bias.copy_(torch.tensor([1e4, 0.0]))
    reply = model.chat(pm.image(PICTURE), "What?", max_tokens=5)
    assert (reply.text, reply.tokens["generated"]) == ("", 1)


def test_eight_bits_leave_the_head_of_new_tokens_alone(folder: Path) -> None:
    exact, small_ = pm.load(folder), pm.load(folder, quantise="int8")
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        for model in (exact, small_):
            model.module.backbone.lm_head.new.bias.fill_(50.0)
    assert (exact.logits(input_ids=ids) - small_.logits(input_ids=ids)).abs().max() < 2.0
