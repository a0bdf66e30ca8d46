"""LLaVA, Qwen2-VL, Fuyu and KOSMOS-2: prompts byte for byte, labels, pictures as the published processors make them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import fuyu_8b, kosmos_2, llava_1_5, llava_1_6, qwen2_vl
from polymodal.data.chat_formats import LLAVA_SYSTEM, chatml_direct, mistral, vicuna
from polymodal.data.hf_image import CLIP, squared
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.template import Template, written
from polymodal.data.tiles import GridTiles, SizedTiles
from polymodal.data.transforms import Squash
from polymodal.systems import fuyu_8b as fuyu
from polymodal.systems.kosmos_2 import checkpoint as kosmos
from polymodal.systems.qwen2_vl import checkpoint as qwen

CAT = Pillow.open(Path(__file__).parents[2] / "examples" / "cat.jpg").convert("RGB")
CROPS = [CAT, CAT.crop((3, 5, 120, 298)), CAT.crop((0, 0, 301, 77)), CAT.crop((10, 10, 31, 24))]
PIXEL = 1 / 255 / 0.26  # one step of a pixel after division by CLIP's deviation


def talk(picture: Pillow.Image | None = None) -> list[Message]:
    seen = (pm.image(picture),) if picture is not None else ()
    return [Message(role="user", parts=(*seen, Text("Q"))), Message(role="assistant", parts=(Text("A"),))]


def asked(template: Template, *messages: Message) -> str:
    return written(template.render(messages, ask=True))


def test_prompts() -> None:
    user, answer = talk()
    assert asked(vicuna(LLAVA_SYSTEM), user) == (
        "<s>A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: Q ASSISTANT:"
    )
    assert asked(mistral(), user) == "<s>[INST] Q [/INST]"
    assert asked(mistral(), user, answer, user) == "<s>[INST] Q [/INST] A</s>[INST] Q [/INST]"
    assert asked(chatml_direct(), user) == (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\nQ<|im_end|><|im_start|>assistant\n"
    )
    assert asked(qwen.TEMPLATE, user) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert asked(fuyu.TEMPLATE, *fuyu.picture_first((user,))) == "<s>Q<0x04>"
    assert asked(kosmos.TEMPLATE, user) == "<s><grounding>Q"


def folder(place: Path, evidence: Any, config: dict[str, Any], **files: Any) -> Any:
    """A tiny checkpoint with a tokenizer of bytes beside it, loaded."""
    write_config(place, config=config, generation_config={"eos_token_id": 1}, **files)
    model_spec = evidence.SYSTEM.formats[0].model_spec(config)
    write_weights(place, model_spec.build(), model_spec.keys[0])
    return pm.load(place)


def loaded(name: str, place: Path) -> Any:
    if name == "kosmos-2":
        return folder(place, kosmos_2, kosmos_2.small(kosmos_2.write_words(place)))
    if name == "qwen2-vl":
        words = ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
                 "<|video_pad|>"]  # fmt: skip
        return folder(place, qwen2_vl, qwen2_vl.small(byte_tokenizer(place, words, pad="<|endoftext|>"), 5, 6))
    if name == "fuyu-8b":
        words = ["<s>", "|ENDOFTEXT|", "|SPEAKER|", "|NEWLINE|", "<0x04>"]
        return folder(place, fuyu_8b, fuyu_8b.small(byte_tokenizer(place, words, pad="|ENDOFTEXT|"), 2))
    family = {"llava-1.5": llava_1_5, "llava-1.6": llava_1_6}[name]
    size = byte_tokenizer(place, ["<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="</s>")
    return folder(place, family, family.small(size, 2))


@pytest.mark.parametrize("name", ["llava-1.5", "llava-1.6", "qwen2-vl", "fuyu-8b", "kosmos-2"])
def test_labels_say_the_answer_and_pictures_of_any_size_fit(name: str, tmp_path: Path) -> None:
    model = loaded(name, tmp_path)
    small = [picture.resize((picture.width // 4 + 8, picture.height // 4 + 8)) for picture in CROPS[:3]]
    batch = model.processor([talk(picture) for picture in small])
    for row in batch["labels"]:
        said = model.processor.tokenizer.decode(row[row >= 0].tolist())
        assert said.strip() == "A"
    with torch.no_grad():
        logits = model.logits(**batch)
        alone = model.logits(**model.processor([talk(small[1])]))
    mask = batch["attention_mask"]
    real = torch.ones_like(batch["input_ids"][1]) if mask is None else mask[1]
    torch.testing.assert_close(logits[1, real.bool()], alone[0], atol=1e-4, rtol=0)


PROMPTS = {
    "llava-1.5": "<s>" + LLAVA_SYSTEM + " USER: " + "<image>" * 16 + "\nQ ASSISTANT:",
    "qwen2-vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    + "<|image_pad|>" * 4 + "<|vision_end|>Q<|im_end|>\n<|im_start|>assistant\n",
    "fuyu-8b": ("|SPEAKER|" * 3 + "|NEWLINE|") * 2 + "<s>Q<0x04>",
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPTS)
def test_a_question_about_a_picture_is_written_as_published(name: str, tmp_path: Path) -> None:
    processor = loaded(name, tmp_path).processor
    picture = Pillow.new("RGB", (61, 59) if name != "fuyu-8b" else (61, 31))
    batch = processor(talk(picture)[:1], generate=True)
    assert processor.tokenizer.decode(batch["input_ids"][0].tolist(), skip_special=False) == PROMPTS[name]


def test_slots_of_kosmos_are_those_of_the_published_processor(tmp_path: Path) -> None:
    processor = loaded("kosmos-2", tmp_path).processor
    batch = processor(talk(CROPS[1])[:1], generate=True)
    special = processor.tokenizer.special
    head = [special("<s>"), special("<image>"), *range(4, 12), special("</image>"), special("<grounding>")]
    assert batch["input_ids"][0, : len(head)].tolist() == head
    assert batch["image_embeds_position_mask"][0].nonzero().flatten().tolist() == list(range(2, 10))


def test_video_goes_through_the_processor(tmp_path: Path) -> None:
    model = loaded("qwen2-vl", tmp_path)
    video = model.processor.modalities["video"].transform
    frames = torch.randint(0, 255, (6, 60, 90, 3), dtype=torch.uint8).numpy()
    value = video.of_frames(frames)
    assert value["grid"][0] == 3 and video.patches.tokens(value) * 4 == len(value["patches"])


def test_tiles_equal_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size=336)
    wanted = theirs(CROPS, return_tensors="pt")
    ours = SizedTiles(tiles=GridTiles())
    for index, picture in enumerate(CROPS):
        found = ours(picture)
        count = len(found["tiles"])
        assert found["size"].tolist() == wanted["image_sizes"][index].tolist()
        assert not bool(wanted["pixel_values"][index, count:].any())
        assert (found["tiles"] - wanted["pixel_values"][index, :count]).abs().max() <= PIXEL


@pytest.mark.parametrize("pad", [False, True])
def test_square_pictures_equal_transformers(pad: bool) -> None:
    transformers = pytest.importorskip("transformers")
    side = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    theirs = transformers.LlavaImageProcessorPil(do_pad=pad, **side)
    ours = squared({"do_pad": pad}, {**CLIP, **side})
    wanted = theirs(CROPS, return_tensors="pt")["pixel_values"]
    assert (torch.stack([ours(picture) for picture in CROPS]) - wanted).abs().max() <= PIXEL


def test_kosmos_squashes_as_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPImageProcessorPil(use_square_size=True)
    ours = Squash(height=224, width=224, mean=CLIP_MEAN, std=CLIP_STD)
    wanted = theirs(CROPS, return_tensors="pt")["pixel_values"]
    assert (torch.stack([ours(picture) for picture in CROPS]) - wanted).abs().max() <= PIXEL


def test_an_official_folder_without_its_tower_says_what_to_fetch(tmp_path: Path) -> None:
    from polymodal.check.evidence import llava as official
    from polymodal.errors import WeightsError

    config = official.small(99, tmp_path / "clip")
    (tmp_path / "config.json").write_text(json.dumps({**config, "mm_vision_tower": "openai/clip-vit-large-patch14"}))
    from safetensors.torch import save_file

    save_file({"model.mm_projector.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"leaves out its vision tower 'openai/clip-vit-large-patch14'; fetch that"):
        pm.load(tmp_path)
