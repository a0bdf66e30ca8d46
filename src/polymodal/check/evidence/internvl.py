"""InternVL-Chat against its published code, run outside the project."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import Checkpoint, byte_tokenizer, train_fresh_and_chat
from polymodal.check.encoder_checks import COUNT, classification_headline, contrastive_check, name_ids
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check, learned, table
from polymodal.data.zero_shot_prompts import IMAGENET
from polymodal.systems import CheckpointFiles, Contrastive
from polymodal.systems.internvl import SYSTEM
from polymodal.systems.internvl.contrastive import Summarised, transform_of

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


MATCH = "use_image_text_matching_head"


def matching(name: str, fixture: str) -> Case:
    """The same weights, judging whether the first pictures and texts belong together."""
    case = fixture_case(name, fixture)

    def make(folder: Path) -> Expected:
        expected, (_, tensors) = case.make(folder), read(fixture)
        logits = tensors["out.match"]
        texts = {each: expected.inputs[each][: len(logits)] for each in ("input_ids", "attention_mask")}
        return Expected(inputs={**texts, "pixel_values": expected.inputs["pixel_values"], MATCH: True}, logits=logits)

    return Case(name=name, make=make)


def small_contrastive(architecture: str, vocabulary: int) -> dict[str, Any]:
    """A config.json of InternVL-14B for its training check and demonstration: pictures of 56 x 56, 4 queries."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 56}  # fmt: skip
    language = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                "vocab_size": vocabulary}  # fmt: skip
    return {"model_type": "internvl", "architectures": [architecture], "vision_config": vision, "clip_embed_dim": 32,
            "qllama_config": language, "attn_pool_num_heads": 4, "num_query_token": 4}  # fmt: skip


def pairs() -> TrainingCheck:
    """Pictures and the letters of their names near each other."""
    torch.manual_seed(0)
    pixels = real.pixels(56)
    model = SYSTEM.formats[1].model_spec(small_contrastive("InternVLModel", 40)).build()
    return contrastive_check(model, ("pixel_values", lambda rows: pixels[rows]), ("input_ids", name_ids(1, 2, 3)))


def compared() -> HeadlineResult:
    """A tiny InternVL-G learns eight pictures in sentences with their names, is saved as published, loaded, and given
    the names as classes: zero-shot with the 80 published sentences."""
    torch.manual_seed(0)
    turn = itertools.cycle(IMAGENET)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>", pad="<unk>")
        words, names = Summarised(CheckpointFiles(folder).tokenizer(), 1, 2), real.captions(COUNT)
        transform = transform_of(56)
        pixels = torch.stack([transform(picture) for picture, _ in real.pictures()[:COUNT]])

        def said(rows: list[int]) -> torch.Tensor:
            next(turn)  # nine a step, so that every name is told in all 80 sentences
            return table([words(next(turn).format(names[i])) for i in rows], 0)

        def trained(module: nn.Module) -> nn.Module:
            seen = contrastive_check(module, ("pixel_values", lambda rows: pixels[rows]), ("input_ids", said), lr=1e-3)
            return learned(seen, Contrastive(), steps=200)

        config = small_contrastive("InternVL_G", size)
        checkpoint = Checkpoint(format=SYSTEM.formats[1], config=config, file="model.safetensors", written=config)
        return classification_headline(checkpoint.stored(folder, trained).classify)


EVIDENCE = Evidence(
    oracle=fixture_source("internvl"),
    cases=(
        case("four tiles of two pictures, one, none", "internvl", 4, 1, 0),
        case("small ViT, swapped grid, another layer, positions resized, beyond the trained length", "internvl_small",
             2, 1),
        fixture_case("InternVL-G, queries and pooling", "internvl_14b_g"),
        fixture_case("InternVL-C, another frequency of looking layers", "internvl_14b_c"),
        matching("pictures and texts judged by the matching head", "internvl_14b_g"),
    ),
    published=tuple(packed_size("internvl_14b_sizes" if each.format else "internvl_sizes", each.name, each.parameters)
                    for each in SYSTEM.variants),
    training_checks={"contrastive": pairs, "pretrain": training_check, "finetune": training_check},
    headline=headline,
    layouts={SYSTEM.formats[1].name: compared},
    exceptions=(
        "language models of Phi-3 are refused by name; of InternVL 1.0 captions by QLLaMA and its chat are not part",
        "InternVL-14B: the vocabulary of QLLaMA (49,954) is recalled; its second training stage is not a stage here",
        "numbers of InternLM2-20B in chat-v1.5 are recalled; the sum is the published one",
    ),
)  # fmt: skip
