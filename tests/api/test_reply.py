"""What a reply says of its end, and what a system answers with where the caller gives no options."""

from dataclasses import replace
from pathlib import Path

import pytest

import polymodal as pm
from polymodal.errors import ConfigError
from polymodal.generation.sampling import SamplingOptions
from polymodal.systems.mini.components import REPETITION_PENALTY

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")


@pytest.fixture
def model():
    return pm.load(TINY)


def test_an_answer_that_was_cut_says_so(model):
    cut = model.chat("what?", max_tokens=4)
    assert (cut.finish_reason, cut.tokens["generated"]) == ("length", 4)
    whole = model.chat("what?", max_tokens=400, stop=cut.text[1:3])
    assert whole.finish_reason == "stop" and whole.tokens["generated"] < 400
    assert [each.finish_reason for each in model.chat_batch(["what?"], max_tokens=4)] == ["length"]
    assert model.chat("what?", max_tokens=4, beams=2).finish_reason == "length"
    full = model.chat("w" * 480, max_tokens=4000)
    assert full.finish_reason == "length" and full.tokens["text"] + full.tokens["generated"] == 512  # the context


def test_a_system_has_sampling_options_of_its_own(model):
    plain = model.chat("what?", max_tokens=24)
    model._parts = replace(model._parts, sampling={"repetition_penalty": 5.0})
    penalised = model.chat("what?", max_tokens=24)
    assert penalised.text == model.chat("what?", max_tokens=24, repetition_penalty=5.0).text != plain.text
    assert model.chat("what?", max_tokens=24, repetition_penalty=1.0).text == plain.text
    assert model.chat("what?", options=SamplingOptions(max_tokens=24)).text == plain.text
    model._parts = replace(model._parts, sampling={"repetition_penalty": 0.0})
    with pytest.raises(ConfigError, match="repetition_penalty"):
        model.chat("what?")


def test_mini_does_not_repeat_itself():
    assert 1.0 < REPETITION_PENALTY <= 1.2
