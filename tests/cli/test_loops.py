"""Answers that repeat themselves are cut, and said to be."""

import json

import pytest

import polymodal as pm
from polymodal.cli.loops import loops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I can help. " + "I'm here to help you find the right information. " * 4, True),
        ("I can help. " + "I'm here to help you find the right information. " * 3, False),
        ("A cat. " * 22, True),
        ("A cat. " * 10, False),
        ("-" * 120 + "\n", False),  # a ruler
        ("| --- " * 20, False),  # a table
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, " * 3, False),
        ("".join(f"{number}. A line like the one before.\n" for number in range(40)), False),
        ("g" * 150, True),
    ],
)
def test_what_a_loop_is(text, expected):
    assert loops(text) is expected


def test_a_loop_is_cut_and_said(polymodal, tiny, monkeypatch):
    monkeypatch.setattr("polymodal.cli.loops.SHORTEST", 12)
    arguments = ("ask", "tell me a story", "-m", tiny, "--max-tokens", 120)
    outcome = polymodal(*arguments)
    assert "the answer repeats itself)" in outcome.err
    found = polymodal(*arguments, "--json").json
    assert found["finish"] == "repetition" and found["answer"] + "\n" == outcome.out
    assert found["tokens"]["generated"] < 120
    lines = iter(["tell me a story", "and?"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, "/quit"))
    talk = polymodal("chat", tiny, "--max-tokens", 120, "--json").out.splitlines()
    assert json.loads(talk[0])["finish"] == "repetition" and len(talk) == 2


def test_a_stream_can_be_stopped(tiny):
    model = pm.load(tiny)
    whole = model.chat("tell me a story", max_tokens=20)
    stream, text = model.stream("tell me a story", max_tokens=20), ""
    for piece in stream:
        text += piece
        if len(text) >= 3:
            stream.stop()
    assert stream.reply.finish_reason == "stopped" and stream.reply.text == text and whole.text.startswith(text)
    assert stream.reply.tokens["generated"] == len(stream.ids) < 20
    assert model.chat("tell me a story", max_tokens=20).text == whole.text, "what was kept of it is still right"
