"""The stages of the default model, each on a tiny learner and made-up data through the project's own loop."""

from dataclasses import replace
from pathlib import Path

import align
import hear
import instruct
import pytest
import torch
from torch import nn

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.connectors.ctc import CTCConnectorConfig
from polymodal.connectors.names import NamesConfig
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.lora import apply_lora
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from polymodal.systems.mini.components import ADAPTED
from polymodal.systems.mini.recipe import ALIGN, HEAR, INSTRUCT
from polymodal.train.loop import LoopOptions, run_stage

STEPS = 6


def short(stage, **changes):
    return replace(stage, budget=replace(stage.budget, steps=STEPS), **changes)


def connector():
    torch.manual_seed(0)
    return NamesConfig(names=7, classes=5, key_width=6, class_width=6, cells=3, cell_width=4, hidden_width=8).build(
        12, 16
    )


def test_align_learns_the_names_of_pictures(tmp_path: Path) -> None:
    learner = align.Recall(connector())

    def batches(step: int, generator: torch.Generator) -> dict:
        right = torch.rand(8, 5, generator=generator) < 0.3
        right[:, 0] = True
        return {"summary": torch.randn(8, learner.recall.in_features, generator=generator), "right": right}

    losses = run_stage(learner, short(ALIGN, train=align.STAGE.train), batches, tmp_path, seed=align.SEED)
    assert len(losses) == STEPS and all(p.requires_grad for p in learner.parameters())


def test_hear_learns_tokens_and_letters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = hear.Learner(CTCConnectorConfig(vocab_size=9).build(16, 12))

    def batches(step: int, generator: torch.Generator) -> dict:
        features = torch.randn(2, 30, 16, generator=generator)
        return {"features": features, "lengths": torch.tensor([30, 20]),
                "targets": {"tokens": [[1, 2, 3], [4]], "letters": [[0, 2, 3, 4], [5, 6]]}}  # fmt: skip

    lines: list[dict] = []
    losses = run_stage(learner, short(HEAR, train=("connector", "letters")), batches, tmp_path, 100, seed=3,
                       options=LoopOptions(report=lambda step, steps, line: lines.append(line)))  # fmt: skip
    assert losses[-1] < losses[0] and losses[0] == pytest.approx(lines[0]["tokens"] + lines[0]["letters"], rel=1e-5)


def decoder() -> nn.Module:
    block = DecoderBlockConfig(attention=AttentionConfig(width=16, heads=2), mlp=GatedMLPConfig(width=16, ffn_width=24))
    return DecoderConfig(vocab_size=30, width=16, blocks=(block,) * 2, rope=RopeConfig(head_dim=8)).build()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instruct_learns_slots_and_adapters_and_nothing_else(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    language = decoder()
    apply_lora(language, ADAPTED, 2, 4)
    instruct.cast_frozen(language, dtype)
    parts = connector()
    learner = instruct.Learner(parts, language, placeholder=29)
    slots = parts.config.word_slots + parts.config.dense_slots
    parts.rows = torch.randn(11, 16)

    def batches(step: int, generator: torch.Generator) -> dict:
        ids = torch.tensor([[1, *[29] * slots, 4, 5, 6]] * 2)
        batch = {"input_ids": ids, "labels": ids.masked_fill(ids == 29, -100), "attention_mask": torch.ones_like(ids),
                 "position_ids": torch.arange(ids.shape[1]).expand(2, -1)}  # fmt: skip
        weights = torch.zeros(2, parts.config.word_slots)
        return {**instruct.branched(batch, [[], []]), "summary": torch.randn(2, len(parts.centre), generator=generator),
                "words": (weights.long(), weights)}  # fmt: skip

    before = {name: x.clone() for name, x in learner.state_dict().items()}
    stage = short(INSTRUCT, train=("connector.dense", "connector.confidence"))
    run_stage(learner, stage, batches, tmp_path, seed=2)
    moved = {name for name, x in learner.state_dict().items() if not torch.equal(x, before[name])}
    assert {name for name in moved if "lora_B" in name} and all(
        "lora_" in name or name.startswith(("connector.dense", "connector.confidence")) for name in moved
    )
