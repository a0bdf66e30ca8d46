"""LLaMA-Adapter V2 against the official code, run outside the project."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check.demo import chat_headline
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.llama_adapter_v2 import SYSTEM

KEYS = "LLaMA_adapter of the official code on the meta device"


def rows(fixture: str) -> list[tuple[int, Tensors]]:
    """Each row of a fixture without padding and with its own picture."""
    _, tensors = read(fixture)
    mask, found = tensors["in.attention_mask"].bool(), []
    for row in range(len(mask)):
        ids = tensors["in.input_ids"][row][mask[row]][None]
        found.append((row, {"input_ids": ids, "pixel_values": tensors["in.pixel_values"][row : row + 1]}))
    return found


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=rows(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """Settings for training checks and the demonstration: 4 vectors a picture of 56 x 56, prompts in both layers."""
    clip = {"embed_dim": 48, "image_resolution": 56, "vision_layers": 2, "vision_width": 64, "vision_patch_size": 14}
    return {"model_type": "llama_adapter_v2", "dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 16,
            "norm_eps": 1e-6, "vocab_size": vocabulary, "max_seq_len": 512, "query_len": 4, "query_layer": 2,
            "w_bias": True, "w_lora": False, "lora_rank": 16, "w_new_gate": False, "v_embed_dim": 48, "v_num_heads": 4,
            "v_depth": 2, "v_mlp_ratio": 4.0, "clip": clip}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; both stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [1, 2], side=56, lr=1e-2)


def headline() -> HeadlineResult:
    """A tiny adapter is trained on eight real pictures and asked about each by `chat`, from its published folder."""
    return chat_headline(SYSTEM.formats[0], small, steps=100, generation_config={"eos_token_id": 2},
                         wanting="the released weights need LLaMA's and were not at hand")  # fmt: skip


EVIDENCE = Evidence(
    oracle=fixture_source("llama_adapter_v2"),
    cases=(
        case("biases, sizes by the shapes alone", "llama_adapter_v2"),
        case("low-rank paths and the second gate, prompts in every layer", "llama_adapter_v2_lora"),
        case("pretraining form, one layer", "llama_adapter_v2_caption"),
    ),
    published=(
        fixture_size("llama_adapter_v2", "bias-7b", 7_143_806_977, KEYS),
        fixture_size("llama_adapter_v2_lora", "lora-bias-7b", 7_183_783_969, KEYS),
        fixture_size("llama_adapter_v2_caption", "caption-7b", 7_142_709_249, KEYS),
    ),
    training_checks={"pretrain": training_check, "finetune": training_check},
    headline=headline,
    exceptions=(
        "the official module keeps parts of CLIP's text side and the gates of the first layer, which nothing reads; "
        "they are dropped by name here",
    ),
)
