"""ALBEF against its official code, run outside the project (check/fixtures/albef_*.safetensors).

Names and counts at published size are the official classes' on the meta device, without the momentum copies and queues
of a run; that those are dropped by name is tested in tests/systems/test_albef.py.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.alignment import alignment_check, name_batch, pairs
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, TrainingCheck
from polymodal.check.training import learned
from polymodal.systems.albef import SYSTEM, published
from polymodal.train.momentum import MomentumAlignment


def case(name: str, fixture: str) -> Case:
    """A fixture, whose rows are also compared with themselves alone, without padding."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    rows = []
    for i, mask in enumerate(given["attention_mask"].bool()):
        one = {key: value[i : i + 1] for key, value in given.items() if key != "attention_mask"}
        rows.append((i, {**one, "input_ids": one["input_ids"][:, mask]}))
    return fixture_case(name, fixture, alone=rows)


def size(variant: str, kind: str) -> Size:
    about, _ = read(f"albef_{kind}")
    return fixture_size(f"albef_{kind}", variant, int(about["parameters"]), f"official classes, {about['source']}")


def small(kind: str) -> dict[str, Any]:
    """A config of test size, 4 x 4 patches."""
    made = published(kind, 64)
    made["vision_config"] |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                              "intermediate_size": 128}  # fmt: skip
    made["text_config"] |= {"vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
                            "intermediate_size": 128, "max_position_embeddings": 48, "fusion_layer": 2}  # fmt: skip
    return {**made, "joint_width": 32}


def pretrain() -> TrainingCheck:
    torch.manual_seed(0)
    return alignment_check(SYSTEM.formats[0].model_spec(small("pretrained")).build(), 64, masked=True)


def retrieval() -> TrainingCheck:
    torch.manual_seed(0)
    return alignment_check(SYSTEM.formats[0].model_spec(small("retrieval")).build(), 64)


def headline() -> HeadlineResult:
    """A tiny model learns 8 pairs, is written as an official file, loaded, and asked for the text of each picture."""
    torch.manual_seed(0)
    model_spec = SYSTEM.formats[0].model_spec(small("retrieval"))
    training = TrainingCheck(model=model_spec.build(), batches=pairs(64, 8), steps=200, lr=1e-3)
    model = learned(training, MomentumAlignment(alpha=0.0, queue=8))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "config.json").write_text(json.dumps(small("retrieval")), encoding="utf-8")
        names = dict(model_spec.keys[0].inverse().apply(model.state_dict()))
        torch.save({"model": names}, folder / "pytorch_model.bin")
        loaded = pm.load(folder).module
    texts = name_batch(list(range(8)))
    with torch.no_grad():
        states = loaded.image(real.pixels(64)[:8])
        scores, _ = loaded.shortlist(states, texts["input_ids"], texts["attention_mask"], keep=4)
    right = int((scores.argmax(1) == torch.arange(8)).sum())
    return HeadlineResult(
        ok=right >= 6,
        evidence=f"tiny weights trained on 8 pictures: after a shortlist of 4 by cosine the "
        f"match head puts the right name first for {right} of 8 (chance 1)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("albef_pretrained"),
    cases=(
        case("pretrained file: match and joint space", "albef_pretrained"),
        case("retrieval file: match and joint space", "albef_retrieval"),
        case("answers to questions of unequal length", "albef_answer"),
        case("pairs of pictures, 18 blocks", "albef_pair"),
        case("entailment", "albef_entailment"),
        case("text assignment before pairs", "albef_assignment"),
    ),
    published=(
        size("pretrained-14m", "pretrained"),
        size("mscoco", "retrieval"),
        size("vqa", "answer"),
        size("nlvr2", "pair"),
        size("pretrained-nlvr", "assignment"),
    ),
    training_checks={"pretrain": pretrain, "retrieval": retrieval},
    headline=headline,
)
