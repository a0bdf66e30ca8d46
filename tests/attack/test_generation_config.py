"""What a folder's generation_config.json may ask for: numbers of beams and answers are bounded, a call's are not."""

import json

import pytest

import polymodal as pm
from polymodal.api.generation_options import MAX_ANSWERS, Published, split_options
from polymodal.errors import ConfigError
from tiny_folders import tiny


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
@pytest.mark.parametrize("value", [MAX_ANSWERS + 1, 10**9, 10**400, 0, -1, "many", [2], True])
def test_a_file_asks_for_a_bounded_number_of_answers(name, value):
    with pytest.raises(ConfigError, match=rf"generation_config.json: {name}: expected 1 to {MAX_ANSWERS}, found"):
        split_options({}, None, Published(settings={name: value}))


def test_a_call_may_ask_for_more():
    assert split_options({"num_beams": MAX_ANSWERS + 1}, None, Published())[1].options.beams == MAX_ANSWERS + 1
    assert split_options({}, None, Published(settings={"num_beams": 5}))[1].options.beams == 5


@pytest.mark.parametrize("settings", [
    {"temperature": 10**400, "do_sample": True}, {"top_k": 2**63, "do_sample": True}, {"max_new_tokens": 2**70},
    {"repetition_penalty": "a"},
])  # fmt: skip
def test_numbers_that_no_tensor_holds(settings):
    with pytest.raises(ConfigError):
        split_options({}, None, Published(settings=settings))


@pytest.mark.parametrize("eos", [[None], [None, 2], None, []])
def test_an_end_that_is_null_is_none(eos, tmp_path):
    tiny("cogvlm", tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}), encoding="utf-8")
    model = pm.load(tmp_path)
    assert model.chat("Hi", max_tokens=2).text == model.chat_batch(["Hi"], max_tokens=2)[0].text
    assert model.generate(input_ids=[[20, 21]], max_new_tokens=2).shape[0] == 1
