"""PNDM, DDIM and DDPM against diffusers and 4M's code, step by step with the same noise; what is refused."""

from typing import Any

import pytest
import torch

from polymodal.check import fixture, randomise
from polymodal.errors import ConfigError
from polymodal.generators import samplers
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.generators.noise_shares import EndingInNoise, Linear, RootLinear, Shares, ShiftedCosine, SquaredCosine

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False}
PNDM = {**BETAS, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 50, 999])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["PNDMScheduler", "DDIMScheduler"])
def test_every_step_is_that_of_the_library(name: str, prediction: str, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    config: dict[str, Any] = {**BETAS, "steps_offset": 1, "prediction_type": prediction}
    config |= {"skip_prk_steps": True} if name.startswith("PNDM") else {"clip_sample": steps == 5}
    theirs = getattr(diffusers, name)(**config)
    theirs.set_timesteps(steps)
    ours = samplers.parse_config({**config, "_class_name": name}).start(steps)
    assert list(ours.times) == theirs.timesteps.tolist()
    torch.manual_seed(0)
    sees = torch.nn.Conv2d(4, 4, 3, padding=1)
    found = expected = torch.randn(2, 4, 8, 8)
    for time in theirs.timesteps:
        expected = theirs.step(sees(expected), int(time), expected).prev_sample
        found = ours.step(sees(found), found)
        assert ((found - expected).abs() / (1 + expected.abs())).max() < (1e-4 if steps < 999 else 1e-3)


@pytest.mark.parametrize("steps", [0, -1, 1000, 10_000, 2.5, True])
def test_steps_that_no_schedule_has(steps: Any) -> None:
    with pytest.raises(ConfigError, match="steps: expected 1 to"):
        samplers.parse_config(PNDM).start(steps)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "expected PNDMScheduler or DDIMScheduler"),
        ({"skip_prk_steps": False}, "skip_prk_steps: expected true"),
        ({"prediction_type": "sample"}, "prediction_type: expected epsilon or v_prediction"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing: expected 'leading'"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule: expected 'scaled_linear'"),
    ],
)
def test_other_schedulers_are_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        samplers.parse_config({**PNDM, **change})


SHARES = {"linear": Linear(), "scaled_linear": RootLinear(0.0001, 0.02), "squaredcos_cap_v2": SquaredCosine(),
          "shifted_cosine:0.5": ShiftedCosine(0.5), "shifted_cosine:2": ShiftedCosine(2.0)}  # fmt: skip
SIGHTS: dict[str, samplers.Sight] = {"sample": "clean", "epsilon": "noise", "v_prediction": "velocity"}
_, STORED = fixture.read("fourm_schedules")


def shares(name: str, ends: str) -> Shares:
    found = SHARES[name]
    return EndingInNoise(found) if ends == "1" and not isinstance(found, ShiftedCosine) else found


@pytest.mark.parametrize("key", [name for name in STORED if name.startswith("kept.")])
def test_what_is_left_is_as_in_4m(key: str) -> None:
    name, ends = key.removeprefix("kept.").rsplit(".", 1)
    found = NoiseSchedule(1000, shares(name, ends)).kept
    assert (found - STORED[key]).abs().max() < 2e-6
    if ends == "1":
        assert found[-1] == 0


@pytest.mark.parametrize("key", [name.removeprefix("times.") for name in STORED if name.startswith("times.")])
def test_steps_with_the_same_noise_are_those_of_4m(key: str) -> None:
    kind, sees, middle = key.split(".", 2)
    name, ends, steps = middle.rsplit(".", 2)
    config = samplers.SamplerConfig(
        schedule=NoiseSchedule(1000, shares(name, ends)), kind=kind, offset=0, last=1.0, sees=SIGHTS[sees], clip=1.0,
        spacing="trailing" if kind == "ddim" else "leading",
    )  # fmt: skip
    walk = config.start(int(steps))
    assert list(walk.times) == STORED[f"times.{key}"].tolist()
    draws = torch.Generator().manual_seed(3)
    sample, states = randomise.values("start", (2, 3, 4, 4)), []
    for _ in walk.times:
        seen = 0.7 * sample.roll(1, -1)
        sample = walk.step(seen, sample, lambda like: torch.randn(like.shape, generator=draws))
        states.append(sample[0, 0, 0])
    assert (torch.stack(states) - STORED[f"states.{key}"]).abs().max() < 1e-4
    assert (sample - STORED[f"last.{key}"]).abs().max() < 1e-4


def test_a_shift_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a shift above 0, found 0"):
        ShiftedCosine(0)
