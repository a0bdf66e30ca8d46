"""Answers that go round in a circle are cut and said to be; what only looks like it is left alone."""

import json
from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal.cli.app import run
from polymodal.errors import ConfigError
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.generation.stopping import Loop
from tiny_models import VOCABULARY, text_model

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")
# Ids of SmolLM2's vocabulary: a loop that mini ran into without a repetition penalty, and what it writes when asked to
# write the word cat 50 times (`numbered`).
CAN_HELP = [57, 416, 724, 30]  # "I can help."
SENTENCE = [
    339,
    5248,
    1535,
    288,
    724,
    346,
    1042,
    260,
    1048,
    1096,
    30,
]  # " I'm here to help you find the right information."
CAT, CAT_ALONE, COMMA, NEWLINE, DASHES = 2644, 9786, 28, 198, 586


def numbered(count: int) -> list[int]:
    """ "1. cat 50 times", "2. cat 50 times", ...: the digits change, so that it is no circle."""
    lines = [[*(32 + int(digit) for digit in str(n)), 30, CAT, 216, 37, 32, 1711, 198] for n in range(1, count + 1)]
    return [id for line in lines for id in line]


def cut_at(ids: list[int], tokens: int = 128) -> int | None:
    """How many of them are written before the answer is cut; None: all."""
    loop = Loop(tokens)
    return next((count for count in range(1, len(ids) + 1) if loop.found(ids[:count])), None)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (CAN_HELP + SENTENCE * 40, len(CAN_HELP) + 127),  # with the full stop before the first
        (CAN_HELP + SENTENCE * 11 + [2], None),  # eleven times, and then it ends by itself
        (CAN_HELP + [CAT] * 400, len(CAN_HELP) + 128),
        ([CAT, COMMA] * 50 + [2], None),  # "write the word cat 50 times", with commas
        ([CAT_ALONE, NEWLINE] * 50, None),
        ([CAT] * 100 + [2], None),
        (numbered(50), None),
        (list(range(100, 200)) * 3 + [2], None),  # a verse of 100 tokens three times
        (list(range(100, 200)) * 5, 400),  # and a fourth time
        (list(range(100, 300)) * 9, None),  # longer than any circle that is looked for
        ([DASHES] * 40 + CAN_HELP + [DASHES] * 40, None),  # rulers of a table
        (CAN_HELP, None),
    ],
)
def test_what_a_loop_is(ids, expected):
    assert cut_at(ids) == expected


def test_a_shorter_amount_is_the_callers():
    assert cut_at(CAN_HELP + SENTENCE * 40, 40) == len(CAN_HELP) + 43, "four times at least"
    assert cut_at(CAN_HELP + [CAT] * 50, 40) == len(CAN_HELP) + 40


def test_an_answer_is_the_same_until_it_is_cut():
    """A small random model runs into a circle; ids by default go on as the library's do."""
    model = text_model(0)
    batch = {"input_ids": torch.tensor([[5, 6, 7], [9, 1, 4]])}
    free = generate(model, batch, SamplingOptions(max_tokens=300))
    cut = generate(model, batch, SamplingOptions(max_tokens=300, stop_loops=60))
    assert [len(each.ids) for each in free] == [300, 300] and {each.finish_reason for each in free} == {"length"}
    assert any(each.finish_reason == "repetition" for each in cut)
    for whole, part in zip(free, cut, strict=True):
        assert whole.ids[: len(part.ids)] == part.ids
        assert (cut_at(list(whole.ids), 60) or 300) == len(part.ids)


def test_a_grammar_may_ask_for_the_same_again_and_again():
    only = DecodingConstraints(allowed=lambda written: torch.tensor([3]))
    (found,) = generate(text_model(0), {"input_ids": torch.tensor([[5, 6]])},
                        SamplingOptions(max_tokens=80, stop_loops=20), only)  # fmt: skip
    assert found.ids == (3,) * 80 and found.finish_reason == "length" and VOCABULARY > 3


def test_chat_cuts_and_says_so(capsys):
    model = pm.load(TINY)
    free = model.chat("tell me a story", max_tokens=120, stop_loops=0)
    reply = model.chat("tell me a story", max_tokens=120, stop_loops=24)
    assert free.finish_reason == "length" and reply.finish_reason == "repetition"
    assert free.text.startswith(reply.text) and 24 <= reply.tokens["generated"] < 120
    (batched,) = model.chat_batch(["tell me a story"], max_tokens=120, stop_loops=24)
    assert (batched.text, batched.finish_reason) == (reply.text, "repetition")
    assert model.sampling_options(None, {}).stop_loops == 128 and SamplingOptions().stop_loops == 0
    words = ["ask", "tell me a story", "-m", TINY, "--max-tokens", "120", "--stop-loops", "24"]
    assert run(words) == 0
    said = capsys.readouterr()
    assert said.out == reply.text + "\n"
    assert f"(stopped at {reply.tokens['generated']} tokens: the answer repeats itself)" in said.err
    assert run([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out)["finish"] == "repetition"


def test_a_conversation_goes_on_after_it(monkeypatch, capsys):
    lines = iter(["tell me a story", "and?"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, "/quit"))
    assert run(["chat", TINY, "--max-tokens", "120", "--stop-loops", "24", "--json"]) == 0
    talk = capsys.readouterr().out.splitlines()
    assert json.loads(talk[0])["finish"] == "repetition" and len(talk) == 2


def test_a_stream_can_be_stopped():
    model = pm.load(TINY)
    whole = model.chat("tell me a story", max_tokens=20)
    stream, text = model.stream("tell me a story", max_tokens=20), ""
    for piece in stream:
        text += piece
        if len(text) >= 3:
            stream.stop()
    assert stream.reply.finish_reason == "stopped" and stream.reply.text == text and whole.text.startswith(text)
    assert stream.reply.tokens["generated"] == len(stream.ids) < 20
    assert model.chat("tell me a story", max_tokens=20).text == whole.text, "what was kept of it is still right"


def test_no_number_of_tokens():
    with pytest.raises(ConfigError, match="stop_loops: expected 0"):
        SamplingOptions(stop_loops=-1)
