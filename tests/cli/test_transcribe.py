"""`transcribe` writes what it has heard at once, says where it is, and keeps what was written when it ends early."""

import contextlib
import json
import os
import pty
import shutil
import sys
import threading
from pathlib import Path

import pytest
from outcome import is_one_line

import polymodal as pm
from polymodal.cli.app import run
from polymodal.cli.transcribe import clock
from polymodal.errors import PromptError

LONG = str(Path(__file__).with_name("long_system.py"))
ROWS = [
    {"start": 0.5, "end": 9.25, "text": "One two three."},
    {"start": 20.5, "end": 29.25, "text": "Four five."},
    {"start": 30.5, "end": 39.25, "text": "Six."},
]


@pytest.fixture
def two(sound, tmp_path) -> list[Path]:
    """Two recordings, "a.wav" and "b.wav"."""
    return [Path(shutil.copy(sound, tmp_path / f"{name}.wav")) for name in "ab"]


def test_a_line_for_each_window_or_segment(polymodal, sound):
    assert polymodal("transcribe", sound, "-m", LONG).out == "One two three.\nFour five.\nSix.\n"
    out = polymodal("transcribe", sound, "-m", LONG, "--segments").out
    assert out.splitlines()[1] == "[0:20.50 --> 0:29.25] Four five."
    (found,) = polymodal("transcribe", sound, "-m", LONG, "--json").json
    assert found["text"] == "One two three. Four five. Six." and found["segments"] == ROWS
    assert list(found) == ["file", "text", "model", "seconds", "segments"]
    assert polymodal("transcribe", sound, "-m", LONG, "--segments", "--json").json[0]["segments"] == ROWS


def test_a_recording_without_speech_says_so(polymodal, sound, monkeypatch):
    """On stderr: stdout holds the words alone."""
    monkeypatch.setenv("LONG_FAULT", f"{sound.name}:silence")
    outcome = polymodal("transcribe", sound, "-m", LONG)
    assert (outcome.code, outcome.out) == (0, "") and f"({sound}: no speech was heard)" in outcome.err


def test_several_recordings_keep_a_line_each(polymodal, two):
    a, b = two
    words = "One two three. Four five. Six.\n"
    assert polymodal("transcribe", a, b, "-m", LONG).out == f"{a}: {words}{b}: {words}"
    assert f"{b}: [0:30.50 --> 0:39.25] Six.\n" in polymodal("transcribe", a, b, "-m", LONG, "--segments").out
    lines = polymodal("transcribe", a, b, "-m", LONG, "--segments", "--jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == [{"file": str(each), **row} for each in two for row in ROWS]
    lines = polymodal("transcribe", a, b, "-m", LONG, "--jsonl").out.splitlines()
    assert [json.loads(line)["segments"] for line in lines] == [ROWS, ROWS]


def test_an_interrupt_loses_nothing_that_was_heard(polymodal, two, monkeypatch):
    a, b = two
    monkeypatch.setenv("LONG_FAULT", "b.wav:interrupt")
    outcome = polymodal("transcribe", b, "-m", LONG)
    assert (outcome.code, outcome.out) == (130, "One two three.\nFour five.\n")
    assert "Traceback" not in outcome.err
    outcome = polymodal("transcribe", a, b, "-m", LONG)
    assert outcome.code == 130 and outcome.out.endswith(f"{b}: One two three. Four five.\n")
    outcome = polymodal("transcribe", a, b, "-m", LONG, "--segments", "--jsonl")
    assert [json.loads(line)["text"] for line in outcome.out.splitlines()][3:] == ["One two three.", "Four five."]


def test_a_recording_that_is_damaged_late_keeps_what_came_before(polymodal, two, monkeypatch):
    a, b = two
    monkeypatch.setenv("LONG_FAULT", "a.wav:damage")
    outcome = polymodal("transcribe", a, b, "-m", LONG)
    assert outcome.code == 2 and outcome.err == f"polymodal: {a}: it is damaged from here on\n"
    assert outcome.out == f"{a}: One two three. Four five.\n{b}: One two three. Four five. Six.\n"
    lines = polymodal("transcribe", a, b, "-m", LONG, "--segments", "--jsonl").out.splitlines()
    assert json.loads(lines[2]) == {"file": str(a), "error": "it is damaged from here on"} and len(lines) == 6
    assert is_one_line(polymodal("transcribe", a, "-m", LONG, "--json"))


def test_python_gets_segments_as_they_come(tiny, sound):
    model = pm.load(LONG)
    stream = model.transcribe_stream(sound)
    with pytest.raises(PromptError, match="not transcribed to its end"):
        _ = stream.reply
    segments = iter(stream)
    first = next(segments)
    assert (first.start, first.end, first.text) == (0.5, 9.25, "One two three.")
    assert [each.text for each in segments] == ["Four five.", "Six."]
    assert stream.reply.text == model.transcribe(sound).text == "One two three. Four five. Six."
    assert [each.start for each in stream.reply.segments] == [0.5, 20.5, 30.5]
    whole = pm.load(tiny).transcribe(sound)
    (segment,) = whole.segments
    assert (segment.start, segment.end, segment.text) == (0.0, 1.0, whole.text), "a system that answers at once"


@pytest.mark.parametrize(
    ("seconds", "digits", "words"),
    [(0, 0, "0:00"), (59.6, 0, "1:00"), (3661, 0, "1:01:01"), (7.1, 2, "0:07.10"), (59.999, 2, "1:00.00")],
)
def test_clock(seconds, digits, words):
    assert clock(seconds, digits) == words


def read_all(descriptor: int, into: list[bytes]) -> None:
    """Everything that a terminal is sent, until its other end is closed."""
    with contextlib.suppress(OSError):
        while block := os.read(descriptor, 4096):
            into.append(block)


@pytest.mark.parametrize("redirected", [True, False])
def test_a_terminal_sees_how_far_it_is_and_a_file_gets_the_words(sound, tmp_path, monkeypatch, redirected):
    """A status line must not swallow what goes to a file."""
    ours, theirs = pty.openpty()
    out, blocks = tmp_path / "words.txt", []
    reader = threading.Thread(target=read_all, args=(ours, blocks))
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    with open(theirs, "w") as terminal, out.open("w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setattr(sys, "stdout", file if redirected else terminal)
        assert run(["transcribe", str(sound), "-m", LONG]) == 0
    reader.join()
    os.close(ours)
    shown = b"".join(blocks).decode().replace("\r\n", "\n")
    assert "transcribing 1 of 1: 0:40 of 0:40, " in shown
    words = out.read_text() if redirected else shown
    assert "One two three.\n" in words and "Six.\n" in words and ("Six." in shown) is not redirected
