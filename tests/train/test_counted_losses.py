"""Losses that are means over different things: however a step is cut, its loss and gradients are those of one batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from polymodal.train import loop
from polymodal.train.batches import StepData
from polymodal.train.collator import MicroBatch
from polymodal.train.objectives import Loss
from polymodal.train.optimizer import SGD
from polymodal.train.recipe import Budget, Stage
from polymodal.train.schedule import Constant


@dataclass(frozen=True, kw_only=True)
class WordsAndSignals:
    """A mean over words, and one over signals, of which a batch may have none."""

    name: ClassVar[str] = "words_and_signals"

    def build(self, model: nn.Module) -> Loss:
        return WordsAndSignalsLoss()


class WordsAndSignalsLoss(Loss):
    """See WordsAndSignals."""

    def forward(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        losses = {"words": model(batch["words"]).square().mean()}
        if len(batch["signals"]):
            losses["distance"] = model(batch["signals"]).abs().mean()
        return losses


STAGE = Stage(name="s", data=(), objective=WordsAndSignals(), train=("0",), optimizer=SGD(lr=0.1), schedule=Constant(),
              budget=Budget(batch=3, steps=1))  # fmt: skip


def micro(words: Tensor, signals: Tensor) -> MicroBatch:
    return MicroBatch(
        batch={"words": words, "signals": signals},
        targets=len(words),
        tokens=len(words),
        counts={"distance": len(signals)} if len(signals) else {},
    )


def stepped(cuts: list[tuple[slice, slice]]) -> tuple[dict[str, float], Tensor]:
    """One step over batches that are cut like this: what is told of it, and the weights behind it."""
    words, signals = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind()
    torch.manual_seed(0)
    run = loop.begin(nn.Sequential(nn.Linear(4, 1)), STAGE, 0)
    data = StepData(micro_batches=tuple(micro(words[one], signals[other]) for one, other in cuts))
    return loop.train_step(run, STAGE, data, 0), run.model.get_parameter("0.weight").detach()


def test_a_step_is_the_same_however_it_is_cut() -> None:
    told, weights = stepped([(slice(0, 6), slice(0, 6))])
    for cuts in (
        [(slice(0, 1), slice(0, 4)), (slice(1, 6), slice(4, 6))],
        [(slice(0, 4), slice(0, 6)), (slice(4, 6), slice(6, 6))],  # no signal in the second
    ):
        again, found = stepped(cuts)
        assert {"words", "distance"} < again.keys()
        assert {name: again[name] for name in ("loss", "words", "distance")} == pytest.approx(
            {name: told[name] for name in ("loss", "words", "distance")}, rel=1e-6
        )
        assert torch.allclose(found, weights, atol=1e-7)
