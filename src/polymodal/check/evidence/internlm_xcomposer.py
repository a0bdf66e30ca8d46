"""InternLM-XComposer against its parts joined as the official code joins them, low-rank paths and marks and all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check.demo import byte_tokenizer, train_and_chat, write_config, writer
from polymodal.check.evidence import blip_2, minigpt_4
from polymodal.check.fixture import fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.internlm_xcomposer import SYSTEM
from polymodal.systems.internlm_xcomposer.checkpoint import ANSWERED, ASKED

TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def small(vocabulary: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 4 queries that read pictures of 56 x 56."""
    found = blip_2.small({}, vocabulary, vocabulary)
    parts = {name: found[name] for name in ("vision_config", "qformer_config")}
    paths = {"learn_param": ["q", "v", "ffn"], "lora_r": 4, "lora_alpha": 4}
    return {**TEXT, **parts, "model_type": "InternLMXComposer", "architectures": ["InternLMXComposerForCausalLM"],
            "vocab_size": vocabulary, "max_position_embeddings": 1024, "num_query_token": 4,
            "internlm_lora": paths}  # fmt: skip


def training_check() -> TrainingCheck:
    """Four queries between two marks that stay as they are."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [40] * 6 + [32], side=56, steps=60)


def headline() -> HeadlineResult:
    """A tiny InternLM-XComposer in the published layout is trained on three real pictures and asked about each."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>", ASKED, ANSWERED], bos="<s>", eos="</s>", pad="<unk>")
        config = {**small(size), "eoh_token_id": 3, "eoa_token_id": 4}
        write_config(folder, config=config)
        model_spec = SYSTEM.formats[0].model_spec(config)
        write = writer(folder, model_spec)
        write(model_spec.build())
        right = train_and_chat(folder, write, count=3, steps=300, lr=1e-3)
    return HeadlineResult(
        ok=right == 3,
        evidence=f"tiny weights trained on 3 pictures: chat, behind the published meta instruction, names {right} of "
        "them (published weights were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("internlm_xcomposer"),
    cases=(
        minigpt_4.case("low-rank paths in attention and feed-forward, biases", "internlm_xcomposer"),
        minigpt_4.case("neither paths nor biases, one layer, picture first", "internlm_xcomposer_plain"),
    ),
    published=tuple(packed_size("internlm_xcomposer_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={stage.name: training_check for stage in SYSTEM.recipe},
    headline=headline,
)
