"""D&R Net by its formulas in plain torch, with torch's own LSTM on rows of their lengths; nothing was published."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import randomise, real
from polymodal.check.fixture import store
from polymodal.check.plain import linear
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.sequences import loaded, sequences
from polymodal.check.training import learned
from polymodal.systems.dr_net import SYSTEM

SMALL: dict[str, Any] = {"model_type": "dr_net", "features": {"text": 12, "vision": 12, "pairs": 4}, "states": 12,
                         "width": 16, "hidden": 32, "orthogonal": 0.1}  # fmt: skip


def plain_row(weights: Tensors, states: int, text: Tensor, picture: Tensor, pairs: Tensor) -> Tensors:
    """One tweet without padding: words [T, F], picture [F], pairs [K, F]."""
    lstm = nn.LSTM(text.shape[1], states, bidirectional=True)
    for name in dict(lstm.named_parameters()):
        way = "backwards" if name.endswith("_reverse") else "forwards"
        getattr(lstm, name).data.copy_(weights[f"{way}.{name.removesuffix('_reverse')}"])
    with torch.no_grad():
        words, (ends, _) = lstm(text)
    sources = {"text": ends.flatten(), "vision": picture}
    made = {
        f"{kind}_{n}": linear(weights, f"{kind}.{n}", x) for kind in ("shared", "private") for n, x in sources.items()
    }
    seen = []
    for pair in pairs:
        chances = torch.softmax(words @ (weights["match.weight"] @ pair), 0)
        seen.append(torch.tanh(linear(weights, "relation", torch.cat((pair, chances @ words)))))
    chances = torch.softmax(torch.stack([weights["weight.weight"][0] @ each for each in seen]), 0)
    made["association"] = chances @ torch.stack(seen)
    contrast = (made["private_text"], made["private_vision"], made["shared_text"] - made["shared_vision"])
    joined = torch.cat((*contrast, made["association"]))
    return made | {"logits": linear(weights, "head2", linear(weights, "head1", joined).relu())}


def make(folder: Path) -> Expected:
    """Four tweets of unequal numbers of words and pairs."""
    module = SYSTEM.formats[0].model_spec(SMALL).build()
    weights = randomise.state({name: tuple(x.shape) for name, x in module.state_dict().items()})
    (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    store(weights, folder / "model.safetensors", "")
    lengths = {"text": torch.tensor([5, 1, 7, 3]), "pairs": torch.tensor([3, 4, 1, 2])}
    x = {"text": randomise.values("text", (4, 7, 12)), "vision": randomise.values("vision", (4, 12)),
         "pairs": randomise.values("pairs", (4, 4, 4))}  # fmt: skip
    alone = []
    for row in range(4):
        cut = {name: x[name][row : row + 1, : int(lengths[name][row])] for name in lengths}
        alone.append((row, {**cut, "vision": x["vision"][row : row + 1]}))
    found = [plain_row(weights, 12, own["text"][0], own["vision"][0], own["pairs"][0]) for _, own in alone]
    whole = {name: torch.stack([each[name] for each in found]) for name in found[0]}
    logits = whole.pop("logits")
    given = {**x, **{f"{name}_lengths": each for name, each in lengths.items()}}
    return Expected(inputs=given, logits=logits, features=whole, alone=alone)


@cache
def pictures() -> Tensors:
    return sequences(real.COUNT)


def samples(seed: int, count: int = 64) -> Tensors:
    """Tiles of a picture as words, another picture's mean tile as picture and its columns as pairs.

    The label: is one of them warm, the other cold?
    """
    known = pictures()
    generator = torch.Generator().manual_seed(seed)
    said, shown = torch.randint(real.COUNT, (2, count), generator=generator)
    lengths = torch.randint(10, 17, (count,), generator=generator)
    warm = known["score"] > known["score"].median()
    return {"text": known["vision"][said], "text_lengths": lengths, "vision": known["vision"][shown].mean(1),
            "pairs": known["audio"][shown, ::4], "labels": (warm[said] != warm[shown]).long()}  # fmt: skip


def training_check(steps: int = 40) -> TrainingCheck:
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    return TrainingCheck(model=model, batches=samples, steps=steps, lr=1e-2)


def headline() -> HeadlineResult:
    """Pairs of pictures that training had not."""
    model = learned(training_check(300), SYSTEM.recipe[0].objective)
    data = samples(-1, 256)
    labels = data.pop("labels")
    found = loaded(SYSTEM.formats[0].model_spec(SMALL), model, SMALL).logits(**data).argmax(1)
    right = float((found == labels).float().mean())
    return HeadlineResult(
        ok=right > 0.8,
        evidence=f"tiny weights trained on pairs of real pictures, one as words: {right:.0%} of other pairs are told "
        "by whether the two contradict each other in warmth; the tweets and a detector of pairs were not at hand",
    )


EVIDENCE = Evidence(
    oracle="paper: decomposition and relation (ACL 2020) as read, in plain torch, check/evidence/dr_net.py",
    cases=(Case(name="tweets of unequal numbers of words and pairs", make=make),),
    training_checks={"train": training_check},
    headline=headline,
    exceptions=(
        "no code, weights or sizes were published; the paper's abstract was read, its formulas were not: what is "
        "shared, private, orthogonal and related is an interpretation, and the variant's sizes are an example",
        "oracle and model follow the same interpretation: they agree on it, and cannot show that it is the paper's",
        "word vectors, picture vectors (a ResNet's) and adjective-noun pairs (a detector's) are given, not made here",
    ),
)
