"""PNDM and DDIM against diffusers, step by step with the same noise; what is refused."""

from typing import Any

import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.generators import samplers

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
