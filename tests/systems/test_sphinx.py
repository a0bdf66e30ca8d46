"""SPHINX: prompts, pictures, labels, boxes, files cut over ranks, and what is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer
from polymodal.check.evidence.sphinx import small
from polymodal.check.fixture import official_weights, read
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.systems.sphinx import SYSTEM
from polymodal.systems.sphinx.checkpoint import (
    PLACES,
    SYSTEM_WORDS,
    TEMPLATE,
    cut_along,
    grounded,
    parse_config,
    picture_first,
)
from tiny_llama import llama_pipeline

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
DOT = np.zeros((40, 40, 3), np.uint8)


def said(role, *content):
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in content))


def talk(*more):
    return [said("user", "What is it?", pm.image(CAT)), *more]


def processor_of(folder, kind="llama_ens"):
    pipeline = llama_pipeline("first", ())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=pipeline, **names)
    oracle.save_pretrained(folder)
    config = next(each.config for each in SYSTEM.variants if (each.config or {})["llama_type"] == kind)
    return SYSTEM.formats[0].model_spec(config).assemble(None, CheckpointFiles(folder)).processor, oracle


def test_prompts_byte_for_byte():
    start = f"<s><image>{SYSTEM_WORDS}\n\n### Human: What is it?\n###"
    assert written(TEMPLATE.render(picture_first(talk()), ask=True)) == f"{start} Assistant:"
    more = picture_first(talk(said("assistant", "A cat."), said("user", "Why?")))
    asked = f"{start} Assistant: A cat.\n### Human: Why?\n### Assistant:"
    assert written(TEMPLATE.render(more, ask=True)) == asked
    learned = picture_first(talk(said("assistant", "A cat.")))
    assert written(TEMPLATE.render(learned, ask=False)) == f"{start} Assistant: A cat.\n###</s>"
    own = written(TEMPLATE.render(picture_first([said("system", "Be brief."), *talk()]), ask=True))
    assert own == "<s><image>Be brief.\n\n### Human: What is it?\n### Assistant:"


@pytest.mark.parametrize(
    ("kind", "side", "count"),
    [
        ("llama_ens", 224, 291),
        ("llama_ens5", 448, 1455),
        ("llama_ens_light", 512, 259),
        ("llama_ens5_light", 1024, 1295),
    ],
)
def test_ids_labels_and_pixels_are_the_official_ones(kind, side, count, tmp_path):
    processor, oracle = processor_of(tmp_path, kind)
    answers = ["A cat.", "It has a tail"]
    batch = processor(talk(said("assistant", answers[0]), said("user", "Why?"), said("assistant", answers[1])))
    text = f"{SYSTEM_WORDS}\n\n### Human: What is it?\n### Assistant: A cat.\n### Human: Why?\n"
    text += "### Assistant: It has a tail\n###"
    ids = oracle(text, add_special_tokens=False)["input_ids"]
    assert batch["input_ids"][0].tolist() == [1, *[32000] * count, *ids, 2]
    labels, start = [-100] * len(ids), 0
    for answer in answers:
        value = oracle(f"{answer}\n###", add_special_tokens=False)["input_ids"]
        start = next(i for i in range(start, len(ids)) if ids[i : i + len(value)] == value)
        labels[start : start + len(value)] = value
    assert batch["labels"][0].tolist() == [*[-100] * (1 + count), *labels, -100]
    cat = Pillow.open(CAT).convert("RGB")
    square = Pillow.new("RGB", (max(cat.size),) * 2, (122, 116, 104))
    square.paste(cat, tuple((max(cat.size) - each) // 2 for each in cat.size))
    pixels = torch.from_numpy(np.array(square.resize((side, side), Pillow.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    assert (batch["pixel_values"][0] - (pixels - mean) / std).abs().max() <= 1e-5


def test_boxes_are_shares_of_the_padded_square():
    wide = pm.image(np.zeros((100, 200, 3), np.uint8))
    text = PLACES.write([(0.1, 0.0, 0.5, 1.0)], (200, 100))
    assert text == "[0.100,0.250,0.500,0.750]"
    answer = f"<p>A dog</p>{text} chases <p>two cats</p> [0.100,0.250,0.200,0.500;0.500,0.500,0.900,0.750]. {text}"
    found = grounded(answer, [wide])
    assert [thing.label for thing in found.things] == ["A dog", "two cats", "two cats", ""]
    assert found.things[0].box == pytest.approx((0.1, 0.0, 0.5, 1.0))
    assert found.things[2].box == pytest.approx((0.5, 0.5, 0.9, 1.0))
    assert found.text == "A dog chases two cats."
    assert grounded(answer, []).things == () and grounded("no [1, 2] box", [wide]).things == ()


def folder_of(place, kind="llama_ens", count=1):
    """A tiny release: config.json, meta.json, a tokenizer and its shards."""
    size = byte_tokenizer(place, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = small(size + size % 2, kind)  # every rank has as many rows
    spec = SYSTEM.formats[0].model_spec(config)
    module = spec.build()
    randomise.fill(module)
    tensors = dict(spec.keys[0].inverse().apply(module.state_dict()))
    for rank in range(count):
        mine = {name: value if (axis := cut_along(name)) is None else value.chunk(count, axis)[rank].clone()
                for name, value in tensors.items()}  # fmt: skip
        torch.save({"model": mine}, place / f"consolidated.{rank:02d}-of-{count:02d}.model.pth")
    config.pop("llama_type")
    (place / "config.json").write_text(json.dumps(config))
    (place / "meta.json").write_text(json.dumps({"llama_type": kind}))
    return module


@torch.no_grad()
def test_a_release_of_two_shards_is_read_as_one(tmp_path):
    module = folder_of(tmp_path, count=2)
    model = pm.load(tmp_path)
    assert model.system.id == "sphinx" and model.module.encoders["image"].config.views == 1
    for name, value in module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], value), name
    first = model.chat(pm.image(CAT), "Hi", max_tokens=4).text
    again = pm.load(model.save(tmp_path / "saved"))
    assert again.chat(pm.image(CAT), "Hi", max_tokens=4).text == first
    (tmp_path / "consolidated.01-of-02.model.pth").unlink()
    with pytest.raises(WeightsError, match="expected 2 shards"):
        pm.load(tmp_path)


def test_the_class_stands_in_meta_json(tmp_path):
    folder_of(tmp_path, "llama_ens5")
    assert pm.load(tmp_path).module.encoders["image"].config.views == 5
    (tmp_path / "meta.json").write_text(json.dumps({"llama_type": "mixtral_sparse_ens"}))
    with pytest.raises(WeightsError, match="matches no known checkpoint format"):
        pm.load(tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(WeightsError, match="matches no known checkpoint format"):
        pm.load(tmp_path)


def test_a_damaged_release_is_refused_by_name(tmp_path):
    about, _ = read("sphinx")
    (tmp_path / "config.json").write_text(about["config"])
    weights = official_weights(about)
    weights.pop("llma.start_img")
    torch.save({"model": weights}, tmp_path / about["file"])
    with pytest.raises(WeightsError, match=r"connectors\.image\.start"):
        pm.load(tmp_path)


def test_which_tensors_are_cut():
    names = {"tok_embeddings": 1, "layers.7.attention.wq": 0, "layers.0.feed_forward.w2": 1, "output": 0, "norm": None,
             "layers.3.attention_norm": None, "visual_proj.0": None, "clip.visual.conv1": None}  # fmt: skip
    assert {name: cut_along(f"llma.{name}.weight") for name in names} == names


def test_what_is_refused_is_named():
    with pytest.raises(PromptError, match="sphinx takes one picture a conversation; found 2"):
        picture_first([said("user", pm.image(DOT), pm.image(DOT))])
    with pytest.raises(PromptError, match="found audio"):
        picture_first([said("user", pm.audio((np.zeros(9, np.float32), 16000)))])
    with pytest.raises(PromptError, match="user and assistant in turn"):
        picture_first([said("assistant", "a")])
    published = SYSTEM.variants[0].config or {}
    for changes, words in (
        ({"llama_type": "llama_ens5p2"}, "llama_type: expected llama_ens or llama_ens5 or .*, found 'llama_ens5p2'"),
        ({"rope_scaling": 2.0}, "rope_scaling"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_config({**published, **changes})
    with pytest.raises(PromptError, match=r"within 0\.\.1"):
        PLACES.write([(0.1, 0.2, 1.3, 0.4)], (10, 10))
