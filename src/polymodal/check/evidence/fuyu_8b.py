"""Fuyu-8B against transformers: pictures of several sizes as rows of raw patches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems import Variant
from polymodal.systems.fuyu_8b import SYSTEM

IMAGE, NEWLINE = 90, 91
GRIDS = [(2, 3), (1, 4), (3, 1)]  # rows and columns of patches


def tiny(transformers: Any, text: dict[str, Any], **more: Any) -> Any:
    """A FuyuConfig of test size; `text` and `more` are what cases vary."""
    text = {"model_type": "persimmon", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 99, "max_position_embeddings": 256, **text}  # fmt: skip
    return transformers.FuyuConfig(text_config=text, image_token_id=IMAGE, **{"patch_size": 5, **more})


def rows_of() -> list[list[int]]:
    """A picture first, then text; text, two pictures with text between, nothing behind the last."""
    words = randomise.ids("words", (24,), 3, IMAGE).tolist()
    pictures = [[token for _ in range(rows) for token in (*[IMAGE] * columns, NEWLINE)] for rows, columns in GRIDS]
    return [pictures[0] + words[:12], words[12:14] + pictures[1] + words[14:17] + pictures[2]]


def batch(rows: list[list[int]]) -> Tensors:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def inputs(config: Any) -> Tensors:
    values = config.patch_size**2 * config.num_channels
    count = sum(rows * columns for rows, columns in GRIDS)
    return {**batch(rows_of()), "pixel_values": randomise.values("patches", (count, values))}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own patches."""
    first = GRIDS[0][0] * GRIDS[0][1]
    patches = given["pixel_values"][:first], given["pixel_values"][first:]
    return [(row, {**batch([rows_of()[row]]), "pixel_values": patches[row]}) for row in (0, 1)]


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    return {"image": library.features(oracle, "image", pixel_values=given["pixel_values"])}


def older(config: Any) -> Tensors:
    """The same under the name that the published processor gives the patches by default."""
    given = inputs(config)
    return {"image_patches": given.pop("pixel_values"), **given}


def words(config: Any) -> Tensors:
    """Text alone, two rows of unequal length."""
    ids = randomise.ids("words", (12,), 3, IMAGE).tolist()
    return batch([ids, ids[:5]])


def case(name: str, text: dict[str, Any] | None = None, **more: Any) -> Any:
    return hugging_case(name, "FuyuForCausalLM", lambda transformers: tiny(transformers, text or {}, **more), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def size(variant: Variant) -> Size:
    return hugging_size(variant.name, "FuyuForCausalLM", lambda t: t.FuyuConfig(**(variant.config or {})))


def small(vocabulary: int, image: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: patches of 30 x 30."""
    return {"model_type": "fuyu", "architectures": ["FuyuForCausalLM"], "image_token_id": image, "patch_size": 30,
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
            "vocab_size": vocabulary, "rope_theta": 25000.0}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 31)).build()
    pixels = (
        real.pixels(120).unflatten(2, (4, 30)).unflatten(4, (4, 30)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 2700)
    )

    def more(rows: list[int]) -> dict[str, Any]:
        return {"pixel_values": pixels[rows].flatten(0, 1)}

    return caption_check(model, [*[31, 31, 31, 31, 32] * 4, 33], side=120, more=more)


def headline() -> HeadlineResult:
    """A tiny Fuyu is trained on eight real pictures and asked about each by `chat`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        specials = ["<s>", "|ENDOFTEXT|", "|SPEAKER|", "|NEWLINE|", "<0x04>"]
        config = small(byte_tokenizer(folder, specials, bos="<s>", eos="|ENDOFTEXT|", pad="|ENDOFTEXT|"), 2)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=100,
                       generation_config={"eos_token_id": 1},
                       preprocessor_config={"size": {"width": 120, "height": 120}})  # fmt: skip
    return HeadlineResult(
        ok=right == 8,
        evidence="tiny weights without an image encoder trained on 8 pictures: chat names "
        f"{right} (published weights are fetched from the hub by id and were not at hand)",
    )


WHOLE = {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0}}
EVIDENCE = Evidence(
    oracle="transformers FuyuForCausalLM",
    cases=(
        case("pictures of three sizes"),
        case("one layer, one head, other theta, whole heads rotated, no q and k norm",
             {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 20, "qk_layernorm": False, **WHOLE}),
        case("tied head, grey patches, gelu", {"hidden_act": "gelu", "layer_norm_eps": 1e-3}, num_channels=1,
             patch_size=3, tie_word_embeddings=True),
        hugging_case("patches by their older name", "FuyuForCausalLM", lambda t: tiny(t, {}), older, generate=True),
        hugging_case("text alone", "FuyuForCausalLM", lambda t: tiny(t, {}), words, generate=True),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
    training_checks={"all": training_check},
    headline=headline,
)  # fmt: skip
