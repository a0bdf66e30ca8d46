"""A demonstration learns until its loss is low enough, not for a number of steps that suits one processor."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from polymodal.check import training
from polymodal.check.record import TrainingCheck
from polymodal.train.objectives import Loss


@dataclass(frozen=True)
class Distance:
    """How far a line's slope is from 3."""

    name = "distance"

    def build(self, model):
        return DistanceLoss()


class DistanceLoss(Loss):
    def forward(self, model, batch):
        return {"distance": (model(batch["x"]) - 3 * batch["x"]).pow(2).mean()}


@pytest.fixture
def rounds(monkeypatch):
    """How many steps each round had."""
    seen, real = [], training.run

    def run(check, stage):
        seen.append(len(losses := real(check, stage)))
        return losses

    monkeypatch.setattr(training, "run", run)
    return seen


def learned(until, steps):
    torch.manual_seed(0)
    lesson = TrainingCheck(model=nn.Linear(1, 1, bias=False), batches=lambda step: {"x": torch.ones(4, 1)}, steps=steps,
                           lr=0.1)  # fmt: skip
    model = training.learned(lesson, Distance(), until=until)
    return float((model.weight.detach() - 3).pow(2).mean())


def test_the_same_steps_come_again_until_the_loss_is_low(rounds):
    assert learned(until=0.1, steps=20) <= 0.1
    assert rounds == [20, 20]


def test_rounds_are_limited(rounds):
    assert learned(until=0.1, steps=2) > 0.1
    assert rounds == [2] * training.ROUNDS


def test_without_a_limit_there_is_one_round(rounds):
    learned(until=None, steps=3)
    assert rounds == [3]
