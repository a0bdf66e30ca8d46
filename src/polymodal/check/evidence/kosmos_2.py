"""KOSMOS-2 against transformers: slots marked by a mask, several pictures, cached steps."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, Size, Tensors
from polymodal.systems._system import Variant
from polymodal.systems.kosmos_2 import MASK, SYSTEM

WORDS = (20, 90)


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A Kosmos2Config of test size; `text`, `vision` and `more` are what cases vary."""
    text = {"embed_dim": 32, "ffn_dim": 48, "layers": 3, "attention_heads": 4, "vocab_size": 99, **text}
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
              "image_size": 28, "patch_size": 7, **vision}  # fmt: skip
    return transformers.Kosmos2Config(text_config=text, vision_config=vision, **{"latent_query_num": 6, **more})


def rows_of(config: Any) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) of two rows: text, a picture, text; two pictures among text, the last at the end."""
    count = config.latent_query_num
    words = randomise.ids("words", (30,), *WORDS).tolist()
    slots = list(range(5, 5 + count)), [1] * count
    first = words[:4] + slots[0] + words[4:9], [0] * 4 + slots[1] + [0] * 5
    second = words[9:12] + slots[0] + words[12:18] + slots[0], [0] * 3 + slots[1] + [0] * 6 + slots[1]
    return [first, second]


def batch(config: Any, rows: list[tuple[list[int], list[int]]], name: str, pictures: int) -> Tensors:
    pad, vision = config.text_config.pad_token_id, config.vision_config
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[pad] * (length - len(row)) + row for row, _ in rows])
    real = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row, _ in rows])
    marks = torch.tensor([[0] * (length - len(row)) + marks for row, marks in rows])
    side = vision.image_size
    pixels = randomise.values(name, (pictures, vision.num_channels, side, side))
    return {"input_ids": ids, "attention_mask": real, MASK: marks, "pixel_values": pixels}


def inputs(config: Any) -> Tensors:
    return batch(config, rows_of(config), "pixels", 3)


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    found = []
    for row, chosen in ((0, slice(0, 1)), (1, slice(1, 3))):
        own = batch(config, [rows_of(config)[row]], "pixels", 1)
        found.append((row, {**own, "pixel_values": given["pixel_values"][chosen]}))
    return found


def prompt(config: Any) -> Tensors:
    """Rows of equal length, a picture each: the library counts padding as positions in cached steps."""
    ids, marks = rows_of(config)[0]
    other = [token + 1 if not mark else token for token, mark in zip(ids, marks, strict=True)]
    return batch(config, [(ids, marks), (other, marks)], "pictures", 2)


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    return {"image": oracle(**given).image_embeds}


def case(name: str, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> Any:
    return hugging_case(name, "Kosmos2ForConditionalGeneration",
                        lambda transformers: tiny(transformers, text or {}, vision or {}, **more), inputs,
                        reading=Reading(features=features), generate=prompt, alone=alone)  # fmt: skip


def size(variant: Variant) -> Size:
    config = variant.config or {}
    return hugging_size(variant.name, "Kosmos2ForConditionalGeneration", lambda t: t.Kosmos2Config(**config))


EVIDENCE = Evidence(
    oracle="transformers Kosmos2ForConditionalGeneration",
    cases=(
        case("several pictures"),
        case("odd width, one layer, untied, embeddings not scaled",
             {"embed_dim": 33, "attention_heads": 3, "layers": 1, "scale_embedding": False,
              "tie_word_embeddings": False, "activation_function": "gelu_new"},
             {"hidden_act": "gelu", "num_channels": 1}, tie_word_embeddings=False, latent_query_num=1),
        case("another padding id, cross-attention that nobody uses", {"pad_token_id": 3, "add_cross_attention": True,
             "layer_norm_eps": 1e-3}, {"patch_size": 14, "layer_norm_eps": 1e-2}),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
    exceptions=("generation from rows padded on the left: the library's cached steps count the padding as positions",),
)  # fmt: skip
