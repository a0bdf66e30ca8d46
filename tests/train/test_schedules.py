"""Schedules and optimisers: by hand, and against torch's own where there is one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.train.optimizer import SGD, Adam, AdamW
from polymodal.train.schedule import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Plateau,
    Schedule,
    StepDecay,
    WarmupStableDecay,
)

TOTALS = st.integers(1, 500)
SCHEDULES = st.sampled_from(
    [
        Constant(warmup_steps=7),
        Cosine(warmup_ratio=0.03, final=0.1),
        Linear(warmup_steps=5, warmup_start=0.1),
        WarmupStableDecay(warmup_steps=3, final=0.1, decay_ratio=0.3),
        Exponential(final=0.01),
        StepDecay(gamma=0.5, periods=4, floor=0.2),
        Plateau(),
    ]
)


@given(SCHEDULES, TOTALS)
def test_the_rate_rises_once_and_never_again(schedule: Schedule, total: int) -> None:
    factors = [schedule.factor(step, total) for step in range(total)]
    warm = min(schedule.warmup(total), total)
    assert all(0 < f <= 1 for f in factors[: max(warm, 1)]) and all(0 <= f <= 1 for f in factors)
    assert factors[:warm] == sorted(factors[:warm]) and factors[warm:] == sorted(factors[warm:], reverse=True)


@pytest.mark.parametrize(
    ("schedule", "total", "expected"),
    [
        (Constant(warmup_steps=2), 4, [0.5, 1, 1, 1]),
        (Constant(warmup_steps=4, warmup_start=0.2), 5, [0.4, 0.6, 0.8, 1, 1]),
        (Cosine(final=0.5), 4, [1, 0.75 + 0.25 * math.cos(math.pi / 4), 0.75, 0.75 - 0.25 * math.cos(math.pi / 4)]),
        (Linear(warmup_ratio=0.2), 5, [1, 1, 0.75, 0.5, 0.25]),
        (WarmupStableDecay(warmup_steps=2, final=0.5, decay_ratio=0.5), 10, [0.5, *[1] * 6, 0.875, 0.75, 0.625]),
        (Exponential(final=0.01), 4, [1, 0.01**0.25, 0.1, 0.01**0.75]),
        (StepDecay(gamma=0.5, periods=3, floor=0.3), 6, [1, 1, 0.5, 0.5, 0.3, 0.3]),
    ],
)
def test_each_shape_by_hand(schedule: Schedule, total: int, expected: list[float]) -> None:
    assert [schedule.factor(step, total) for step in range(total)] == pytest.approx(expected)


def test_a_plateau_is_torchs() -> None:
    losses = [3.0, 2.0, 2.0, 2.1, 1.99999, 2.0, 1.0, 1.2, 1.2, 1.2, 1.2]
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=2)
    schedule = Plateau(gamma=0.1, patience=2)
    for count in range(len(losses)):
        theirs.step(losses[count])
        assert schedule.reduced(losses[: count + 1]) == pytest.approx(optimiser.param_groups[0]["lr"])


def test_warmup_stable_decay_is_transformers() -> None:
    get_wsd_schedule = pytest.importorskip("transformers.optimization").get_wsd_schedule
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_wsd_schedule(optimiser, 0, 6, num_training_steps=20, decay_type="linear", min_lr_ratio=0.2)
    schedule = WarmupStableDecay(final=0.2, decay_ratio=0.3)
    for step in range(20):
        assert schedule.factor(step, 20) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step(), theirs.step()


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="decay_ratio must lie above 0"):
        WarmupStableDecay(decay_ratio=0.0)
    with pytest.raises(ConfigError, match="give warmup_steps of 0 or more, or a warmup_ratio below 1"):
        Cosine(warmup_steps=3, warmup_ratio=0.1)
    with pytest.raises(ConfigError, match="has no published end"):
        Exponential().factor(3, 4)


@pytest.mark.parametrize("config", [AdamW(lr=0.1, betas=(0.8, 0.9)), Adam(lr=0.1, eps=1e-3), SGD(lr=0.1)])
def test_optimisers_take_rates_and_decays_of_groups(config: AdamW | Adam | SGD) -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [p], "lr": lr, "weight_decay": lr / 2} for p, lr in zip(parameters, (0.1, 0.2), strict=True)]
    built = config.build(groups)
    assert [(g["lr"], g["weight_decay"]) for g in built.param_groups] == [(0.1, 0.05), (0.2, 0.1)]
    (parameters[0].sum() + parameters[1].sum()).backward()
    built.step()
    assert parameters[0].mean() > parameters[1].mean()
