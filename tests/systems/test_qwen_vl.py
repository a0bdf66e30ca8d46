"""Qwen-VL: prompts of the chat and of the base model, boxes, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, writer
from polymodal.check.evidence.qwen_vl import IMG, SPECIALS, small
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.systems.qwen_vl import SYSTEM
from polymodal.systems.qwen_vl.boxes import box_text, read_boxes

PICTURE = "<img>" + "<imgpad>" * 4 + "</img>"


def folder_of(path: Path, chat_format: str = "chatml", **changes: Any) -> Path:
    size = byte_tokenizer(path, SPECIALS, eos="<|endoftext|>", pad="<|endoftext|>")
    config = small(size, IMG) | changes
    write_config(path, config=config, generation_config={"chat_format": chat_format, "eos_token_id": 0})
    spec = SYSTEM.formats[0].model_spec(config)
    writer(path, spec)(spec.build())
    return path


def said(role: str, *parts: Any) -> Message:
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def seen(model: Any, batch: dict[str, Any], labels: bool = False) -> str:
    ids = batch["labels" if labels else "input_ids"][0].tolist()
    return "".join(model.processor.tokenizer.decode([i], skip_special=False) if i >= 0 else "" for i in ids)


def talk() -> list[Message]:
    picture = pm.image(Pillow.new("RGB", (30, 40)))
    return [said("user", picture, picture, "What?"), said("assistant", "Dogs."), said("user", picture, "And now?")]


def test_the_prompt_of_several_turns_counts_pictures_over_the_conversation(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    assert seen(model, model.processor(talk(), generate=True)) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nPicture 1:{PICTURE}\nPicture 2:{PICTURE}\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nDogs.<|im_end|>\n"
        f"<|im_start|>user\nPicture 3:{PICTURE}\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_training_learns_answers_and_the_marks_of_turns(tmp_path: Path) -> None:
    """As the published finetune.py labels them: role names and what the user says are left out."""
    model = pm.load(folder_of(tmp_path))
    labels = seen(model, model.processor(talk()[:2]), labels=True)
    assert labels == "<|im_start|><|im_end|>\n" * 2 + "<|im_start|>Dogs.<|im_end|>\n"


def test_the_base_model_takes_prompts_as_they_are(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path, "raw"))
    picture = pm.image(Pillow.new("RGB", (30, 40)))
    batch = model.processor([said("user", picture, "Describe the image in English:"), said("assistant", "Dogs.")])
    assert seen(model, batch) == f"{PICTURE}Describe the image in English:Dogs.<|endoftext|>"


def test_boxes_are_written_and_read_as_published() -> None:
    text = "<ref>dogs</ref><box>(0,12),(500,999)</box><box>(1,2),(3,4)</box> run <box>(5,6),(7,8)</box>"
    plain, found = read_boxes(text)
    assert plain == "dogs run " and [(g.phrase, g.start, g.end, len(g.boxes)) for g in found] == [
        ("dogs", 0, 4, 2), ("", 9, 9, 1)]  # fmt: skip
    assert box_text(found[0].boxes, "dogs") + " run " + box_text(found[1].boxes) == text
    assert read_boxes("no boxes, <ref>a phrase</ref>")[0] == "no boxes, a phrase"


def test_boxes_outside_of_the_picture_are_refused() -> None:
    with pytest.raises(PromptError, match=r"box \(0.5, 0.2, 1.2, 0.4\): expected left < right and top < bottom"):
        box_text([(0.5, 0.2, 1.2, 0.4)])
    with pytest.raises(PromptError, match=r"<box>\(1,2\),\(3,1000\)</box>: expected coordinates from 0 to 999"):
        read_boxes("<box>(1,2),(3,1000)</box>")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kv_channels": 16}, "kv_channels 16 times num_attention_heads 4 must be hidden_size 128"),
        ({"visual": small(40, 3)["visual"] | {"output_dim": 64}}, "visual.output_dim 64 must equal hidden_size 128"),
        ({"visual": small(40, 3)["visual"] | {"n_queries": 5}}, "queries lie on a square grid; found 5"),
        ({"visual": {"width": 32}}, "lacks 'patch_size', which is needed"),
    ],
)
def test_configs_that_describe_no_model_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(small(40, 3) | changes)


def test_the_first_qwen_without_pictures_is_another_system(tmp_path: Path) -> None:
    config = small(40, 3)
    del config["visual"]
    write_config(tmp_path, config=config)
    with pytest.raises(WeightsError, match="the first Qwen"):
        pm.load(tmp_path)


def test_an_unknown_chat_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chat_format: expected 'chatml' or 'raw', found 'alpaca'"):
        pm.load(folder_of(tmp_path, "alpaca"))
