"""RoboFlamingo against its official classes, run elsewhere; see the sources in the fixtures.

Official MPTFlamingo, its Flamingo layers and policy head, open_clip's CLIP and MosaicML's own MosaicGPT (or the
library's GPT-NeoX and MPT) were filled with random numbers and asked as training asks: windows of steps, texts before
the picture, rows of unequal length.  `out.acted` in the fixtures is what the official loop of a robot gives step by
step, beyond the window; tests/systems/test_roboflamingo.py compares it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.tabletop import SIDE, UNSEEN, WORDS, Table
from polymodal.check.training import learned
from polymodal.data.transforms import ShorterSideCrop
from polymodal.systems.roboflamingo import SYSTEM
from polymodal.systems.roboflamingo.checkpoint import END, IMAGE, LAST, PAD, prompt
from polymodal.train.objectives import BehaviourCloning

COUNTED = {"3b": 2_723_962_424, "4b": 4_078_041_640, "9b": 8_304_698_904}  # by the official module itself
WINDOW = 2


def small(vocabulary: int, media: int) -> dict[str, Any]:
    """A config small enough to be trained in seconds."""
    text = {"model_type": "mosaic_gpt", "d_model": 48, "n_heads": 4, "n_layers": 3, "vocab_size": vocabulary,
            "max_seq_len": 64, "alibi": True, "no_bias": True, "attn_qk_ln": True}  # fmt: skip
    vision = {"image_size": SIDE, "patch_size": 16, "width": 48, "layers": 1, "head_width": 12, "mlp_ratio": 2.0,
              "embed_dim": 16, "quick_gelu": True}  # fmt: skip
    resampler = {"depth": 1, "num_latents": 4, "heads": 4, "dim_head": 12}
    return {
        "model_type": "roboflamingo",
        "text_config": text,
        "vision_config": vision,
        "perceiver_config": resampler,
        "policy_config": {"hidden_size": 48, "num_layers": 1},
        "media_token_id": media,
        "window_size": WINDOW,
    }


def widened(model: Any) -> Any:
    """The model as it begins: gates open, positions and linears wide, so that few steps of training are enough."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("gate"):
                weight.fill_(1.0)
            elif name.startswith("policy.") and weight.dim() == 2:
                weight.mul_(3.0)
            elif name.startswith("encoders.image.positions"):
                weight.mul_(30.0)
            elif name.startswith("encoders.image.patch_embed") and weight.dim() > 2:
                weight.mul_(4.0)
    return model


def demonstrations(rng: np.random.Generator, ids: dict[str, list[int]], count: int = 16) -> Tensors:
    """Windows of what the teacher does; ids: of each instruction, padded to one length."""
    look = ShorterSideCrop(size=SIDE, crop=SIDE)
    made: dict[str, list[Any]] = {"input_ids": [], "vision_x": [], "vision_gripper": [], "labels": []}
    for row in range(count):
        table, told = Table.random(rng), list(WORDS)[row % len(WORDS)]
        steps = []
        for _ in range(WINDOW):
            static, gripper = table.cameras()
            right = table.teacher(told)
            table.move(right)
            steps.append((look(static), look(gripper), torch.tensor(right)))
        for name, values in zip(("vision_x", "vision_gripper", "labels"), zip(*steps, strict=True), strict=True):
            made[name].append(torch.stack(list(values)))
        made["input_ids"].append(torch.tensor(ids[told]))
    return {name: torch.stack(values) for name, values in made.items()}


def training_check() -> TrainingCheck:
    """The table, with a number for each instruction."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = widened(SYSTEM.formats[0].model_spec(small(40, 39)).build())
    ids = {told: [39, index + 1, 38] for index, told in enumerate(WORDS)}
    return TrainingCheck(model=model, batches=lambda step: demonstrations(rng, ids), steps=40, lr=1e-3)


def headline() -> HeadlineResult:
    """A policy trained on demonstrations acts by itself on things it never saw, from a folder as published."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, {LAST: 0, END: 257, IMAGE: 258, PAD: 259}), 258)
        write_config(folder, config=config)
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, widened(model_spec.build()), model_spec.keys[0])
        model = pm.load(folder)
        tokenizer = tokenizer_of(folder)
        rows = {told: prompt(tokenizer, told) for told in WORDS}
        length = max(map(len, rows.values()))
        pad = tokenizer.special(PAD)
        ids = {told: row + [pad] * (length - len(row)) for told, row in rows.items()}
        made = TrainingCheck(model=model.module, batches=lambda step: demonstrations(rng, ids), steps=200, lr=1e-3)
        write_weights(folder, learned(made, BehaviourCloning(gripper_weight=0.1)), model_spec.keys[0])
        again = pm.load(folder)
        done = sum(succeeds(again, Table.random(rng, UNSEEN), told) for told in WORDS for _ in range(8))
    return HeadlineResult(
        ok=done >= 14,
        evidence=f"tiny weights trained on demonstrations at a drawn table with real pictures on it: {done} of 16 "
        "tasks done with things never seen (go there, close the gripper, lift or press as told), by model.episode",
    )


def tokenizer_of(folder: Path) -> Any:
    """The folder's tokenizer, as the system reads it."""
    from polymodal.systems import CheckpointFiles

    return CheckpointFiles(folder).tokenizer(added=(END, IMAGE, PAD), eos=LAST, pad=PAD)


def succeeds(model: Any, table: Table, told: str) -> bool:
    """Two steps: over the thing with an open gripper, then closed and in the right direction."""
    episode = model.episode(told)
    first = episode.step(*table.cameras())
    table.move([first.position[0] / 0.02])
    second = episode.step(*table.cameras())
    up = second.position[2] * WORDS[told]
    return table.over and first.gripper_open and not second.gripper_open and up > 0.01


EVIDENCE = Evidence(
    oracle=fixture_source("roboflamingo"),
    cases=(
        fixture_case("MPT-1B, one resampler for both cameras", "roboflamingo"),
        fixture_case("fused before the resampler, mean over tokens, every second layer", "roboflamingo_pre"),
        fixture_case("GPT-NeoX, a resampler for each camera", "roboflamingo_neox"),
        fixture_case("MPT of the library, every third layer", "roboflamingo_mpt"),
    ),
    published=tuple(
        packed_size("roboflamingo_sizes", each.name.split("-")[-1], COUNTED[each.name.split("-")[-1]], each.name)
        for each in SYSTEM.variants
    ),
    training_checks={"imitate": training_check},
    headline=headline,
    exceptions=(
        "published weights were not run: no file of roboflamingo/RoboFlamingo could be had, its names and sizes are "
        "those of the official module",
        "what MPT-1B's hidden_states[-1] is was read in MosaicML's code of 2023-04-06 and in DeeR-VLA's copy of the "
        "hub's file, which says the same, not in the hub's file itself",
        "MPT-7B: the normed output is read, as in MosaicML's code since 2023-05-26 and in transformers",
        "no success rate on CALVIN: its simulator is not part of this project; random shifts of pictures are not made",
        "not built: the heads fc, gpt and diffusion, the LLaMA variant, state as input, multi-step actions",
    ),
)
