"""TomBERT against the official classes, run outside the project (check/fixtures/tombert*.safetensors)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch

from polymodal.check import randomise, real
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import ids_of, loaded
from polymodal.check.training import learned, rows
from polymodal.models.tombert import TomBert
from polymodal.systems.tombert import SYSTEM

TEXT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 24}  # fmt: skip
SMALL: dict[str, Any] = {"model_type": "tombert", "pooling": "first", "text_config": TEXT, "region_width": 64,
                         "vision_config": {"depths": [1, 1, 1, 1], "width": 2}, "dropout": 0.0}  # fmt: skip
WARM, BRIGHT, END = 32, 33, 3


def case(name: str, fixture: str) -> Case:
    """A fixture, whose rows are also given alone, without padding of the tweet."""
    about, tensors = read(fixture)
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    given |= {key: randomise.values(key, shape) for key, shape in json.loads(about["made"]).items()}
    alone = []
    for row, count in enumerate(given["attention_mask"].sum(1).tolist()):
        own = {name: x[row : row + 1] for name, x in given.items()}
        alone.append((row, own | {name: own[name][:, :count] for name in ("input_ids", "token_type_ids")}
                      | {"attention_mask": None}))  # fmt: skip
    return fixture_case(name, fixture, alone=alone)


def samples(chosen: list[int], warm: list[int]) -> Tensors:
    """A picture's name, and one of two targets: its warmth or its brightness; the sentiment says how much of it."""
    every, names, warmth, light = pictures()
    pixels, kinds = every[chosen], torch.tensor(warm)
    labels = torch.where(kinds == 1, warmth[chosen], light[chosen])
    word = torch.where(kinds == 1, WARM, BRIGHT)[:, None]
    end = torch.full_like(word, END)
    ids, mask = names["input_ids"][chosen], names["attention_mask"][chosen]
    return {
        "input_ids": torch.cat((ids, word, end), 1),
        "attention_mask": torch.cat((mask, torch.ones(len(chosen), 2, dtype=torch.long)), 1),
        "token_type_ids": torch.cat((torch.zeros_like(ids), torch.ones(len(chosen), 2, dtype=torch.long)), 1),
        "target_ids": torch.cat((torch.full_like(word, 2), word, end), 1),
        "pixel_values": pixels,
        "labels": labels,
    }


@cache
def pictures() -> tuple[torch.Tensor, Tensors, torch.Tensor, torch.Tensor]:
    """Pixels, names as ids, and the sentiments toward warmth and brightness."""
    every = real.pixels(64)
    warmth, light = every[:, 0].mean((1, 2)) - every[:, 2].mean((1, 2)), every.mean((1, 2, 3))
    return every, ids_of(real.COUNT), third(warmth), third(light)


def third(values: torch.Tensor) -> torch.Tensor:
    """Negative, neutral or positive: which third of all."""
    return torch.bucketize(values, torch.quantile(values, torch.tensor([1 / 3, 2 / 3])))


def training_check(steps: int = 40) -> TrainingCheck:
    """The ResNet is frozen, as published; the target decides what is asked."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    assert isinstance(model, TomBert)
    model.copy_text_to_target()

    def batches(step: int) -> Tensors:
        return samples(rows(step, 24), [(i + step // 4) % 2 for i in range(24)])

    return TrainingCheck(model=model, batches=batches, steps=steps, lr=3e-3)


def headline() -> HeadlineResult:
    """One picture, two targets, two sentiments, from a loaded folder."""
    model = learned(training_check(300), SYSTEM.recipe[0].objective)
    ready = loaded(SYSTEM.formats[0].model_spec(SMALL), model, SMALL)
    right, both = 0.0, []
    for kind in (1, 0):
        data = samples(list(range(real.COUNT)), [kind] * real.COUNT)
        labels = data.pop("labels")
        found = ready.logits(**data).argmax(-1)
        both.append(found)
        right += float((found == labels).float().mean()) / 2
    differ = float((both[0] != both[1]).float().mean())
    return HeadlineResult(
        ok=right > 0.7 and differ > 0.3,
        evidence=f"tiny weights trained on 96 real pictures and names with two targets each: {right:.0%} of sentiments "
        f"right (a third by chance), different ones for the two targets of {differ:.0%} of pictures",
    )


SIZES = (("first", 296_090_155), ("cls", 296_090_155), ("both", 296_683_051))
EVIDENCE = Evidence(
    oracle=fixture_source("tombert"),
    cases=(
        case("pictures through a ResNet, pooled at the picture", "tombert"),
        case("regions given, pooled at both", "tombert_both"),
        case("regions given, pooled at the text, no config", "tombert_cls"),
    ),
    published=tuple(packed_size("tombert_sizes", name, parameters) for name, parameters in SIZES),
    training_checks={"train": training_check},
    headline=headline,
    exceptions=(
        "the official code keeps ResNet-152 in a file of its own: join both under `resnet.`, or give regions",
        "pictures are cropped in the middle: the official code crops and mirrors them at random, in tests too",
        "dropout inside the BERTs is not applied while they train",
    ),
)
