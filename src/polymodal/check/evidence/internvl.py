"""InternVL-Chat against its published code, run outside the project."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.internvl import SYSTEM

SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")


def case(name: str, fixture: str, *tiles: int) -> Case:
    """tiles: how many each row of the fixture has; the first row is generated from, where the fixture has ids of it."""
    about, tensors = read(fixture)
    pixels, found, first = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"]), [], 0
    for row, count in enumerate(tiles):
        alone: Tensors = {"input_ids": unpadded(tensors, row)}
        if count:
            alone["pixel_values"] = pixels[first : first + count]
        found.append((row, alone))
        first += count
    more = {"prompt": found[0][1]} if "out.generated" in tensors else {}
    return fixture_case(name, fixture, alone=found, **more)


def small(vocabulary: int, context: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 4 tokens a tile of 56 pixels, 5 tiles at most."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 56}  # fmt: skip
    language = {"architectures": ["InternLM2ForCausalLM"], "vocab_size": vocabulary, "hidden_size": 64, "bias": False,
                "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2}  # fmt: skip
    return {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "ps_version": "v2",
            "template": "internlm2-chat", "dynamic_image_size": True, "use_thumbnail": True, "max_dynamic_patch": 4,
            "img_context_token_id": context, "vision_config": vision, "llm_config": language}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(36, 33)).build()
    return caption_check(model, [1, 31, *[33] * 4, 32], side=56)


def headline() -> HeadlineResult:
    """A tiny InternVL is trained on eight real pictures and asked about each by `chat`; all are cut into tiles."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="</s>")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], small(size, SPECIALS.index("<IMG_CONTEXT>")), steps=100)
        model, picture = pm.load(folder), real.pictures()[0][0]
        counts = [model.processor.modalities["image"].count(model.processor.modalities["image"].transform(each))
                  for each in (picture, picture.resize((150, 50)))]  # fmt: skip
    return HeadlineResult(
        ok=right == 8 and counts == [20, 16],
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them; a square one is {counts[0] // 4} "
        f"tiles, one three times as wide {counts[1] // 4} (published weights are fetched from the hub by id and "
        "were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("internvl"),
    cases=(
        case("four tiles of two pictures, one, none", "internvl", 4, 1, 0),
        case("small ViT, swapped grid, another layer, positions resized, beyond the trained length", "internvl_small",
             2, 1),
    ),
    published=tuple(packed_size("internvl_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"pretrain": training_check, "finetune": training_check},
    headline=headline,
    exceptions=(
        "InternVL 1.0 (QLLaMA, contrastive) and language models of Phi-3 are refused by name",
        "numbers of InternLM2-20B in chat-v1.5 are recalled; the sum is the published one",
    ),
)  # fmt: skip
