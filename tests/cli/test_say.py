"""`say` and `ask --say`: what is wrong is told before anything is loaded; where sound goes."""

import stat
from typing import ClassVar

import numpy as np
import pytest
from outcome import is_one_line

import polymodal as pm
from polymodal.check import real
from polymodal.cli import say
from speaking_folder import speaking_folder


class Hum:
    """A voice that hums: a tenth of a second for each character."""

    said: ClassVar[list[str]] = []

    def __init__(self, name, **_) -> None:
        self.name = name

    def say(self, text, *, speed):
        self.said.append(text)
        return pm.Speech(samples=np.zeros(int(2400 * len(text) / speed), np.float32), rate=24_000, text=text)


@pytest.fixture
def hum(monkeypatch) -> list[str]:
    """What was said."""
    monkeypatch.setattr("polymodal.api.voice.voice", Hum)
    monkeypatch.setattr(Hum, "said", [])
    monkeypatch.setattr(say, "PLAYERS", (("no-such-player",),))
    return Hum.said


def test_a_text_becomes_a_file(polymodal, hum, tmp_path) -> None:
    out = tmp_path / "hello.wav"
    found = polymodal("say", "Hello there", "--out", out, "--voice", "bf_emma", "--json").json
    assert list(found) == ["file", "voice", "duration", "rate", "seconds"]
    assert (found["file"], found["voice"], found["duration"], found["rate"]) == (str(out), "bf_emma", 1.1, 24_000)
    assert out.read_bytes()[:4] == b"RIFF" and hum == ["Hello there"]
    outcome = polymodal("say", "Hi", "--speed", "0.5", "--out", tmp_path / "hi.flac")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", f"{tmp_path / 'hi.flac'}: 0.4 s of speech\n")


def test_voices_are_listed(polymodal) -> None:
    rows = polymodal("say", "--voices", "--json").json
    assert {"voice": "af_heart", "language": "American English"} in rows and len(rows) == 41
    assert "af_heart" in polymodal("say", "--voices").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "the text is empty"),
        (("  ", "--out", "a.wav"), "the text is empty"),
        (("Hello",), "no player of sound was found"),
        (("Hello", "--out", "a.wma"), "expected a name ending in .wav"),
        (("Hello", "--out", "nowhere/a.wav"), "there is no folder nowhere"),
        (("Hello", "--out", "a.wav", "--voice", "af_hart"), "af_heart"),
        (("Hello", "--out", "a.wav", "--speed", "9"), "speed: expected 0.25 to 4"),
        (("Hello", "--out", "-", "--json"), "--json has no place"),
    ],
)
def test_mistakes_cost_a_line(polymodal, hum, arguments, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = polymodal("say", *arguments)
    assert is_one_line(outcome) and told in outcome.err and hum == [] and not list(tmp_path.glob("*.wav"))


def test_an_answer_is_spoken(polymodal, hum, tiny, photo, tmp_path) -> None:
    out = tmp_path / "answer.wav"
    found = polymodal("ask", photo, "What?", "-m", tiny, "--say", "--out", out, "--json").json
    assert hum == [found["answer"]] and found["speech"]["file"] == str(out) and out.stat().st_size > 44
    for arguments, told in ((("--out", out), "give --say too"), (("--say",), "no player"),
                            (("--say", "--each", "--out", out), "one question")):  # fmt: skip
        outcome = polymodal("ask", photo, "What?", "-m", tiny, *arguments)
        assert is_one_line(outcome) and told in outcome.err, arguments


def test_a_player_gets_the_sound(polymodal, hum, tmp_path, monkeypatch) -> None:
    player = tmp_path / "play-it"
    player.write_text(f'#!/bin/sh\ncat "$1" > {tmp_path}/played\n[ "$2" = "" ]\n')
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(say, "PLAYERS", ((str(player),),))
    assert polymodal("say", "Hello").code == 0 and (tmp_path / "played").read_bytes()[:4] == b"RIFF"
    player.write_text("#!/bin/sh\necho no sound card >&2\nexit 1\n")
    outcome = polymodal("say", "Hello")
    assert outcome.code == 1 and "could not play the speech: no sound card" in outcome.err


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A folder of a model that speaks itself."""
    return speaking_folder(tmp_path_factory.mktemp("speaking") / "SpeechGPT-7B-cm")


def test_a_model_says_a_text_itself(polymodal, speaking, tmp_path) -> None:
    out = tmp_path / "own.wav"
    found = polymodal("say", "Hello.", "--model", speaking, "--out", out, "--json").json
    assert list(found) == ["file", "duration", "rate", "model", "seconds"] and found["rate"] == 16_000
    samples = pm.audio(out).samples(16_000)
    assert len(samples) == round(found["duration"] * 16_000) > 1000 and np.sqrt((samples**2).mean()) > 1e-3
    outcome = polymodal("say", "Hello.", "-m", speaking, "--out", out)
    assert (outcome.code, outcome.out) == (0, "") and f"{out}: {found['duration']:.1f} s of speech" in outcome.err


def test_an_answer_is_spoken_by_the_model_itself(polymodal, speaking, tmp_path) -> None:
    out = tmp_path / "answer.wav"
    found = polymodal("ask", real.SPEECH, "Answer.", "-m", speaking, "--say", "--out", out, "--json").json
    assert found["answer"] == "" and found["speech"]["file"] == str(out) and found["speech"]["rate"] == 16_000
    assert np.abs(pm.audio(out).samples(16_000)).max() > 1e-3
    outcome = polymodal("ask", real.SPEECH, "Answer.", "-m", speaking, "--say", "--out", out)
    assert outcome.code == 0 and outcome.out == "\n" and "speak " in outcome.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("say", "Hi", "-m", "{speaking}", "--voice", "bf_emma"), "speaks itself, with a voice of its own"),
        (("say", "Hi", "-m", "{speaking}", "--speed", "2"), "--speed:"),
        (("say", "Hi", "-m", "{tiny}"), "cannot say; it takes text, image, audio and offers"),
        (("say", "Hi", "--device", "cpu"), "--device: says how a model is loaded; give --model too"),
        (("ask", "What?", "-m", "{speaking}", "--say", "-n", "2", "--temperature", "1"), "one answer"),
    ],
)
def test_mistakes_about_who_speaks(polymodal, speaking, tiny, arguments, told, tmp_path) -> None:
    given = [each.format(speaking=speaking, tiny=tiny) for each in arguments]
    outcome = polymodal(*given, "--out", tmp_path / "a.wav")
    assert is_one_line(outcome) and told in outcome.err and not list(tmp_path.glob("*.wav"))


def test_a_model_that_answers_without_speech(polymodal, tmp_path) -> None:
    mute = speaking_folder(tmp_path / "SpeechGPT-mute", answer="abcdefghijklm")
    outcome = polymodal("say", "Hi", "-m", mute, "--out", tmp_path / "a.wav")
    assert is_one_line(outcome) and "answered without speech ('abcdefghijklm')" in outcome.err
