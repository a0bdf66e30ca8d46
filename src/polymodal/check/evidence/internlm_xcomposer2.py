"""InternLM-XComposer2 against the parts of its published code, joined outside the project."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.internlm_xcomposer2 import SYSTEM
from polymodal.systems.internlm_xcomposer2.checkpoint import BEGIN, CLASS, END

SPECIALS = ("<unk>", "<s>", "</s>", BEGIN, END)


def case(name: str, fixture: str, *pictures: int) -> Case:
    """pictures: how many each row of the fixture has; the first row is generated from."""
    about, tensors = read(fixture)
    pixels, found, first = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"]), [], 0
    for row, count in enumerate(pictures):
        alone: Tensors = {"input_ids": unpadded(tensors, row)}
        if count:
            alone["pixel_values"] = pixels[first : first + count]
        found.append((row, alone))
        first += count
    return fixture_case(name, fixture, alone=found, prompt=found[0][1])


def small(vocabulary: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 16 tokens a picture of 56 pixels."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {"model_type": "internlm2", "architectures": [CLASS], "vocab_size": vocabulary, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "bias": False, "img_size": 56, "vision_config": vision}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(36)).build()
    return caption_check(model, [1, *[36] * 16, 2], side=56)


def headline() -> HeadlineResult:
    """A tiny model is trained on eight real pictures and asked about each by `chat`; text alone takes no new weight."""
    torch.manual_seed(0)
    spec = SYSTEM.formats[0].model_spec(small(36))
    module, ids = spec.build().eval(), torch.arange(3, 20)[None]
    with torch.no_grad():
        before = module(input_ids=ids).logits
        for name, weight in module.named_parameters():
            if ".lora_" in name:
                weight.normal_()
        same = torch.equal(module(input_ids=ids).logits, before)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="</s>")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], small(size), steps=100)
    return HeadlineResult(
        ok=right == 8 and same,
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them; text alone is InternLM2's, bit for "
        "bit (published weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("internlm_xcomposer2"),
    cases=(
        case("two pictures, one, none", "internlm_xcomposer2", 2, 1, 0),
        case("two pictures in touch, one layer, biases, one key head", "internlm_xcomposer2_small", 2, 1),
    ),
    published=tuple(packed_size("internlm_xcomposer2_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": training_check, "instruct": training_check},
    headline=headline,
    exceptions=(
        "no index or config.json of the published files was at hand: names and number are those of the joined parts, "
        "the config's sizes those of InternLM2-7B",
        "the 4KHD and 2.5 models of the same class are refused, and articles with pictures are not composed",
    ),
)
