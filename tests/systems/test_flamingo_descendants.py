"""MultiModal-GPT and Dolphins: their prompts, text without pictures, files as published, caches, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config
from polymodal.check.evidence import dolphins as driving
from polymodal.check.evidence import multimodal_gpt as dialogue
from polymodal.check.film import film
from polymodal.check.fixture import official_weights, read
from polymodal.checkpoints.clips import frame_numbers
from polymodal.data.messages import conversation
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get
from polymodal.systems.dolphins.checkpoint import Driving
from polymodal.systems.multimodal_gpt.checkpoint import Instructions
from polymodal.weights.export import export_tensors

GPT, DOLPHINS = get("multimodal-gpt").formats[0], get("dolphins").formats[0]
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def picture(value: int = 0) -> Any:
    return pm.image(np.full((8, 8, 3), value, dtype=np.uint8))


def talk(item: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [item, "What is it?"]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "Why?"},
    ]


def grey_film(count: int) -> Any:
    return pm.video(film([Pillow.new("RGB", (64, 48), (5 * index,) * 3) for index in range(count)]))


def test_instructions_are_the_official_training_s() -> None:
    asked = written(Instructions().render(conversation(talk(picture())), ask=True))
    assert asked == (
        f"<s>{TASK}\n\n### Image:\n<image>\n\n### Instruction:\nWhat is it?\n\n### Response:\na cat</s>"
        "<s>\n\n### Instruction:\nWhy?\n\n### Response:\n"
    )
    alone = written(Instructions().render(conversation([{"role": "user", "content": "Why?"}]), ask=True))
    assert alone == f"<s>{TASK}\n\n### Instruction:\nWhy?\n\n### Response:\n"
    twice = [{"role": "user", "content": [picture(), picture(), "Which?"]}]
    with pytest.raises(PromptError, match="takes one picture in a conversation, found 2"):
        Instructions().render(conversation(twice), ask=True)
    late = [*talk(picture())[1:], {"role": "user", "content": [picture(), "And this?"]}]
    with pytest.raises(PromptError, match="a picture belongs to the first turn"):
        Instructions().render(conversation(late), ask=True)


def test_driving_words_are_the_official_training_s() -> None:
    clip = grey_film(2)
    asked = written(Driving().render(conversation(talk(clip)), ask=True)).replace("<video>", "<image>")
    assert asked == (
        "<|endoftext|>USER: <image> is a driving video. What is it? GPT: a cat<|endofchunk|>USER: Why? GPT: <answer>"
    )
    told = Driving().render(conversation([*talk(clip), {"role": "assistant", "content": "Fur."}]), ask=False)
    assert written(told).endswith("USER: Why? GPT: <answer>Fur.<|endofchunk|><|endoftext|>")
    learned = [getattr(each, "text", getattr(each, "name", "")) for each in told if getattr(each, "loss_mask", False)]
    assert learned == ["Fur.", "<|endofchunk|>"]


@torch.no_grad()
def test_text_alone_leaves_the_gated_blocks_out_as_the_official_code_does(tmp_path: Path) -> None:
    about, stored = read("multimodal_gpt")
    write_config(tmp_path, config=json.loads(about["config"]))
    torch.save(official_weights(about), tmp_path / "checkpoint.pt")
    model = pm.load(tmp_path)
    found = model.logits(input_ids=stored["in.input_ids"][1:, 5:9])
    torch.testing.assert_close(found, stored["out.text"], atol=1e-4, rtol=0)


def test_the_tuned_file_joins_openflamingo_clip_and_the_language_model(tmp_path: Path) -> None:
    about, stored = read("multimodal_gpt")
    inner, whole = "lang_encoder.base_model.model.", official_weights(about)
    paths = ("checkpoint.pt", "flamingo/checkpoint.pt", "vision/clip.pt", "language/pytorch_model.bin")
    files: dict[str, dict[str, torch.Tensor]] = {path: {} for path in paths}
    for name, x in whole.items():
        own = name.removeprefix(inner)
        if ".lora_" in name:
            files["checkpoint.pt"]["module." + name] = x
        elif name.startswith("vision_encoder."):
            files["vision/clip.pt"][name.replace("vision_encoder.", "visual.")] = x
        elif name.startswith("perceiver.") or "gated_cross" in name or "embed_tokens" in name or "lm_head" in name:
            files["flamingo/checkpoint.pt"][name.replace(inner, "lang_encoder.")] = x
        else:
            files["language/pytorch_model.bin"][own.replace("decoder_layer.", "")] = x
    files["language/pytorch_model.bin"]["model.embed_tokens.weight"] = torch.zeros(7, 48)
    files["language/pytorch_model.bin"]["lm_head.weight"] = torch.zeros(7, 48)
    for path, held in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        torch.save({"model_state_dict": held} if path.endswith("checkpoint.pt") else held, tmp_path / path)
    write_config(tmp_path, config=json.loads(about["config"]))
    write_config(tmp_path / "language", config={"model_type": "llama"})
    model = pm.load(tmp_path)
    real = stored["in.attention_mask"].bool()
    found = model.logits(**{name[3:]: x for name, x in stored.items() if name.startswith("in.")})
    torch.testing.assert_close(found[real], stored["out.logits"][real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("fixture", ["multimodal_gpt", "dolphins"])
def test_a_fused_linear_is_written_with_one_a(fixture: str) -> None:
    about, _ = read(fixture)
    spec = get(fixture.replace("_", "-")).formats[0].model_spec(json.loads(about["config"]))
    module = spec.build()
    named = dict(module.named_parameters())
    fused = [name for name in json.loads(about["shapes"]) if name.endswith(("to_kv.lora_A.default.weight",
                                                                           "Wqkv.lora_A.default.weight"))]  # fmt: skip
    assert fused
    for name, parameter in named.items():
        if "adapters" in name:
            torch.nn.init.normal_(parameter)
    written_out = export_tensors(module, spec.keys[0])
    assert {name: tuple(x.shape) for name, x in written_out.items() if "lora_" in name} == {
        name: tuple(shape) for name, shape in json.loads(about["shapes"]).items() if "lora_" in name
    }


def test_another_picture_changes_what_stands_in_front_of_it(tmp_path: Path) -> None:
    """Text sees the next picture, so that no cache of the words before it may be kept."""
    names = ("<unk>", "<s>", "</s>", "<|endofchunk|>", "<image>", "<PAD>")
    config = dialogue.small(byte_tokenizer(tmp_path, names, bos="<s>", eos="</s>", pad="<PAD>"), 4)
    write_config(tmp_path, config=config)
    torch.manual_seed(0)
    spec = GPT.model_spec(config)
    module = spec.build()
    dialogue.opened(module)
    torch.save(export_tensors(module, spec.keys[0]), tmp_path / "checkpoint.pt")
    model = pm.load(tmp_path)
    asked = [[{"role": "user", "content": [picture(value), "What?"]}] for value in (0, 255)]
    asked.append([{"role": "user", "content": "What?"}])
    fresh = []
    for each in asked:
        fresh.append(pm.load(tmp_path).chat(each, max_tokens=12).text)
    assert [model.chat(each, max_tokens=12).text for each in asked] == fresh
    assert len(set(fresh)) > 1


def test_clips_are_sixteen_frames_at_equal_steps(tmp_path: Path) -> None:
    names = ("<|endoftext|>", "<|endofchunk|>", "<image>", "<answer>", "<PAD>")
    config = driving.small(byte_tokenizer(tmp_path, names, bos="<|endoftext|>", pad="<PAD>"), 2)
    write_config(tmp_path, config=config)
    spec = DOLPHINS.model_spec(config)
    torch.save(export_tensors(spec.build(), spec.keys[0]), tmp_path / "checkpoint.pt")
    batch = pm.load(tmp_path).processor([{"role": "user", "content": [grey_film(40), "What happens?"]}], generate=True)
    greys = (batch["video_values"][0, 0, :, 0, 16, 16] * 0.26862954 + 0.48145466) * 255 / 5
    assert batch["video_values"].shape == (1, 1, 16, 3, 32, 32) and greys.round().tolist() == frame_numbers(40)


def test_other_options_are_refused() -> None:
    config = dialogue.small(60)
    with pytest.raises(ConfigError, match=r"lora_r must be a whole number from 1 on, found 0"):
        GPT.model_spec({**config, "lora_r": 0})
    with pytest.raises(ConfigError, match=r"multimodal-gpt: text_config\.model_type 'mpt' is not supported"):
        GPT.model_spec({**config, "text_config": {"model_type": "mpt"}})
    with pytest.raises(ConfigError, match=r"dolphins: text_config\.model_type 'llama' is not supported"):
        DOLPHINS.model_spec(config)
