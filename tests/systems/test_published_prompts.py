"""Real tokenizers and templates of published checkpoints: ids of three turns as the published processors give them."""

import json

import numpy as np
import pytest
import transformers
from PIL import Image as Pillow

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.messages import conversation
from polymodal.systems import get
from published_folders import published_folder

PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
IMAGE = {"type": "image", "image": PICTURE}
WORDS = (
    "What is it?",
    "A cat, on a mat.",
    "And  that? \u00e9\u6f22\u5b57 \U0001f600",
    "Two dogs;\nthey sleep.",
    "Why?",
    "So.",
)


def processor_of(name, system, **defaults):
    folder = published_folder(name)
    spec = get(system).formats[0].model_spec({**defaults, **json.loads((folder / "config.json").read_text())})
    return folder, spec.assemble(None, CheckpointFiles(folder)).processor


def text(words):
    return {"type": "text", "text": words}


def talk(pictures):
    """Three rounds with a picture before the words, behind them, or both, as `pictures` has it."""
    turns = []
    for index, words in enumerate(WORDS):
        content = [text(words)]
        if index % 2 == 0:
            before, behind = pictures[index // 2]
            content = [IMAGE] * before + content + [IMAGE] * behind
        turns.append({"role": ("user", "assistant")[index % 2], "content": content})
    return turns


@pytest.mark.parametrize("pictures", [((1, 0), (0, 0), (0, 0)), ((1, 1), (2, 0), (0, 1)), ((0, 0), (0, 0), (1, 0))])
def test_llava_by_its_own_chat_template(pictures):
    folder, ours = processor_of("llava-1.5-7b-hf", "llava-1.5")
    oracle = transformers.AutoProcessor.from_pretrained(folder)
    assert ours.template.source.file == "chat_template.json"
    turns = talk(pictures)
    for system in ((), ({"role": "system", "content": [text("Be brief.")]},)):
        for count in range(1, len(turns) + 1):
            rows = [*system, *turns[:count]]
            ask = count % 2 == 1
            wanted = oracle.apply_chat_template(rows, add_generation_prompt=ask, tokenize=True, return_dict=True,
                                                return_assistant_tokens_mask=True)  # fmt: skip
            row = ours.encode(conversation(rows), generate=ask)
            assert row.input_ids == list(wanted["input_ids"][0])
            assert row.loss_mask == [bool(each) for each in wanted["assistant_masks"][0]]


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_blip_2_by_its_processor(rounds):
    folder, ours = processor_of("blip2-flan-t5-xl", "blip-2", image_token_index=32100)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = talk(((1, 0), (0, 0), (0, 0)))[: 2 * rounds - 1]
    asked = [turn["content"][-1]["text"] for turn in turns[::2]]
    row = ours.encode(conversation(turns), generate=True)
    seen = row.media_spans[0].item.tokens
    assert seen == 32
    if rounds == 1:
        wanted = tokenizer(f"Question: {asked[0]} Short answer:")["input_ids"]
        assert row.input_ids[seen:] == wanted
    begun = tokenizer(f"Question: {asked[-1]} Short answer:")["input_ids"]
    assert row.input_ids[-len(begun) :] == begun


@pytest.mark.parametrize(
    "name",
    ["clip-vit-base-patch32", "blip-captioning-resaved", "blip2-flan-t5-xl", "Emu1-llama-13b", "llava-1.5-7b-hf"],
)
def test_texts_alone(name):
    folder = published_folder(name)
    tokenizer = CheckpointFiles(folder).tokenizer()
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    for words in WORDS:
        wanted = oracle(words)["input_ids"]
        before, behind = tokenizer.special_tokens_around
        ids = [*map(tokenizer.special, before), *tokenizer.encode(words), *map(tokenizer.special, behind)]
        assert ids == wanted
