"""The unit vocoder: its outputs are fairseq's (check/evidence/speechgpt.py); here its durations and what is refused."""

import pytest
import torch

from polymodal.check.unit_speech import VOICE
from polymodal.errors import ConfigError, PromptError
from polymodal.generators import unit_vocoder


def test_every_unit_lasts_a_frame_at_least() -> None:
    torch.manual_seed(0)
    vocoder = unit_vocoder.parse_config(VOICE).build()
    units = torch.tensor([[3, 3, 39, 0]])
    frames = vocoder.lasting(units)
    assert int(frames.min()) >= 1
    assert vocoder(units).shape == (1, int(frames.sum()) * 320)
    assert vocoder(units, merged=False).shape == (1, 4 * 320)


def test_durations_without_end_are_refused() -> None:
    vocoder = unit_vocoder.parse_config(VOICE).build()
    torch.nn.init.constant_(vocoder.durations.proj.bias, 60.0)
    with pytest.raises(PromptError, match="frames, at most 131072"):
        vocoder(torch.tensor([[1, 2]]))


def test_units_of_every_frame_need_no_durations() -> None:
    vocoder = unit_vocoder.parse_config({**VOICE, "dur_predictor_params": None}).build()
    assert vocoder(torch.tensor([[1, 1]]), merged=False).shape == (1, 640)
    with pytest.raises(ConfigError, match="no dur_predictor_params"):
        vocoder(torch.tensor([[1, 1]]))


def test_units_that_there_are_not() -> None:
    vocoder = unit_vocoder.parse_config(VOICE).build()
    with pytest.raises(PromptError, match=r"speech unit 40 does not exist; the vocoder speaks units 0\.\.39"):
        vocoder(torch.tensor([[1, 40]]))
    with pytest.raises(PromptError, match="expected one row of units"):
        vocoder(torch.zeros(1, 0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"multispkr": True}, "multispkr True is not supported; it speaks with one voice"),
        ({"f0": True}, "f0 True is not supported"),
        ({"resblock": "2"}, "resblock: expected '1', found '2'"),
        ({"model_in_dim": 80}, "model_in_dim: expected embedding_dim 16, found 80"),
        ({"upsample_rates": [5, 4]}, "expected a kernel for each of the rates"),
        ({"upsample_initial_channel": 30}, "a width that they halve evenly, found 30"),
        ({"dur_predictor_params": {**VOICE["dur_predictor_params"], "encoder_embed_dim": 8}}, "expected 16, found 8"),
        ({"dur_predictor_params": {**VOICE["dur_predictor_params"], "var_pred_kernel_size": 5}}, "expected 3, found 5"),
    ],
)
def test_what_is_not_supported_is_named(changes, told) -> None:
    with pytest.raises(ConfigError, match=told):
        unit_vocoder.parse_config({**VOICE, **changes})
