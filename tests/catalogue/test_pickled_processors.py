"""Processors go to other processes, as the workers of a DataLoader need it: every system's, with its tokenizer."""

import importlib
import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_collate

import polymodal as pm
from polymodal.data.chat_template import ChatTemplate
from polymodal.data.processor import Processor
from polymodal.errors import ConfigError
from tiny_folders import FOLDERS, tiny

PICTURE = {"type": "image", "image": Image.new("RGB", (40, 60), (200, 100, 50))}
# Systems whose headline loads a folder with a processor before it trains; the rest are in FOLDERS.
STEMS = ("bayling", "blip_2", "chinese_llama_2", "chinese_llava", "emu3", "instructblip", "language_model",
         "llama_adapter_v2", "llama_vid", "llasm", "llava", "llava_1_6", "minigpt_4", "moe_llava", "pandagpt",
         "sharegpt4v", "shikra", "tigerbot", "video_chatgpt", "video_llama")  # fmt: skip


class Made(Exception):
    """The folder of a headline was loaded."""


def of_headline(stem, monkeypatch):
    """The model that the headline loads first."""
    load = pm.load

    def keep(*args, **named):
        raise Made(load(*args, **named))

    monkeypatch.setattr(pm, "load", keep)
    with pytest.raises(Made) as made:
        importlib.import_module(f"polymodal.check.evidence.{stem}").EVIDENCE.headline()
    return made.value.args[0]


def conversation(model):
    return [
        {"role": "user", "content": [PICTURE, "What is it?"] if "image" in model.system.inputs else ["What is it?"]}
    ]


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return one == other


def check(model) -> None:
    again = pickle.loads(pickle.dumps(model.processor))
    assert equal(again(conversation(model), generate=True), model.processor(conversation(model), generate=True))
    tokenizer = pickle.loads(pickle.dumps(model.processor.tokenizer))
    assert tokenizer.encode("What is it?") == model.processor.tokenizer.encode("What is it?")


@pytest.mark.parametrize("stem", STEMS)
def test_the_processor_of_a_headline_s_folder(stem, monkeypatch):
    check(of_headline(stem, monkeypatch))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_processor_of_a_tiny_folder(name, tmp_path):
    check(tiny(name, tmp_path))


class Rows(Dataset):
    """What a training script writes: the worker makes the batch."""

    def __init__(self, processor):
        self.processor = processor

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.processor([{"role": "user", "content": [PICTURE, f"What is {index}?"]}])["input_ids"]


def test_workers_that_are_spawned_make_batches(tmp_path):
    model = tiny("llava-1.5", tmp_path)
    assert not isinstance(model.processor.template, ChatTemplate)
    rows = Rows(model.processor)
    loader = DataLoader(rows, num_workers=1, multiprocessing_context="spawn", collate_fn=default_collate)
    for index, ids in enumerate(loader):
        assert torch.equal(ids[0], rows[index])


def test_a_function_that_cannot_be_sent_is_named(tmp_path):
    processor = tiny("llava-1.5", tmp_path).processor
    image = replace(processor.modalities["image"], tokens=lambda values: 16)
    own = Processor(tokenizer=processor.tokenizer, template=processor.template, modalities=(image,))
    with pytest.raises(ConfigError, match=r"^processor\.modalities\.image\.tokens is .*<lambda>, which cannot be pick"):
        pickle.dumps(own)
