"""DialogueRNN against conv-emotion's BiModel, run outside the project (check/fixtures/dialoguernn*.safetensors)."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.check import real
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import loaded
from polymodal.check.training import learned
from polymodal.systems.dialoguernn import SYSTEM
from polymodal.train.affect import UtteranceClasses

SMALL = {"model_type": "dialoguernn", "features": {"text": 12}, "classes": 3, "common": 24, "party": 24, "emotion": 16,
         "hidden": 16, "parties": 3, "dropout": 0.0, "state_dropout": 0.0}  # fmt: skip
UTTERANCES = 8


def case(name: str, fixture: str) -> Case:
    """A fixture, whose dialogues are also given alone, without padding."""
    _, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    lengths = given["attention_mask"].sum(1).tolist()
    rows = [{name: x[row : row + 1, :length] for name, x in given.items()} for row, length in enumerate(lengths)]
    return fixture_case(name, fixture, alone=tuple(enumerate(rows)))


@cache
def utterances() -> tuple[Tensor, Tensor]:
    """Each picture as 12 numbers (its colours in four tiles), and whether it is warm."""
    pixels = real.pixels(32)
    tiles = F.adaptive_avg_pool2d(pixels, (2, 2)).flatten(1)
    warmth = pixels[:, 0].mean((1, 2)) - pixels[:, 2].mean((1, 2))
    return (tiles - tiles.mean(0)) / tiles.std(0), warmth > warmth.median()


def dialogues(seed: int, count: int = 16) -> Tensors:
    """Three people show pictures in turn; the label: was the last picture of this speaker cold 0, warm 1, or none 2?"""
    generator = torch.Generator().manual_seed(seed)
    features, warm = utterances()
    shown = torch.randint(real.COUNT, (count, UTTERANCES), generator=generator)
    speakers = torch.randint(3, (count, UTTERANCES), generator=generator)
    lengths = torch.randint(UTTERANCES // 2, UTTERANCES + 1, (count, 1), generator=generator)
    mask = (torch.arange(UTTERANCES) < lengths).long()
    labels = torch.full((count, UTTERANCES), 2)
    for row in range(count):
        last: dict[int, int] = {}
        for step in range(UTTERANCES):
            who = int(speakers[row, step])
            labels[row, step] = last.get(who, 2)
            last[who] = int(warm[shown[row, step]])
    return {"text": features[shown] * mask[..., None], "speakers": speakers * mask, "attention_mask": mask,
            "labels": labels.masked_fill(mask == 0, -100)}  # fmt: skip


def training_check(steps: int = 40) -> TrainingCheck:
    """Six classes as published, of which real dialogues of pictures have three."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec({**SMALL, "classes": 6}).build()
    return TrainingCheck(model=model, batches=dialogues, steps=steps, lr=5e-3)


def headline() -> HeadlineResult:
    """What a speaker showed last, in dialogues that training had not."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    model = learned(TrainingCheck(model=model, batches=dialogues, steps=300, lr=1e-2), UtteranceClasses())
    data = dialogues(-1, 64)
    labels = data.pop("labels")
    there = labels >= 0
    found = loaded(SYSTEM.formats[0].model_spec(SMALL), model, SMALL).logits(**data).argmax(-1)
    right = float((found == labels)[there].float().mean())
    most = float(torch.bincount(labels[there]).max() / there.sum())
    return HeadlineResult(
        ok=right > most + 0.25,
        evidence=f"tiny weights trained on dialogues of three people about real pictures: {right:.0%} of others "
        f"are told by what their speaker showed before (always one answer: {most:.0%})",
    )


SIZES = (("iemocap", 8_880_406), ("meld-text", 2_036_607), ("meld-audio", 1_406_607), ("meld", 2_666_607))
EVIDENCE = Evidence(
    oracle=fixture_source("dialoguernn"),
    cases=(
        case("three speakers, text and audio, dialogues of unequal length", "dialoguernn"),
        case("listeners with a GRU of their own, attention with bias", "dialoguernn_listeners"),
        case("simple attention, a state dict without a config", "dialoguernn_simple"),
    ),
    published=tuple(packed_size("dialoguernn_sizes", name, parameters) for name, parameters in SIZES),
    training_checks={"train": training_check},
    headline=headline,
    exceptions=("the official attentions 'concat' and 'dot', which no published run uses, are refused by name",),
)
