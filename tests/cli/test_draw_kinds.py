"""`draw` by the ending of its file: sounds, videos with sound, texts; conditions beside words; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from outcome import is_one_line
from PIL import Image

import polymodal as pm
from polymodal.check.evidence import codi


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random CoDi."""
    made = tmp_path_factory.mktemp("codi")
    codi.write_tiny_folder(made)
    return made


def test_the_ending_says_what_is_made(polymodal, folder, tmp_path) -> None:
    Image.new("RGB", (24, 24), "blue").save(tmp_path / "sky.png")
    usual = ("--steps", 1, "--size", "16x8", "--frames", 2)
    out = tmp_path / "rain.mp4"
    found = polymodal("draw", folder, "rain", "--image", tmp_path / "sky.png", "--out", out, *usual, "--json").json
    (row,) = found["files"]
    assert (row["width"], row["height"], row["frames"], row["sound"]) == (16, 8, 2, True)
    clip = pm.video(out)
    assert clip.sound is not None and clip.clip(fps=4).frames.shape[1:] == (8, 16, 3)
    outcome = polymodal("draw", folder, "rain", "--out", tmp_path / "rain.wav", *usual)
    assert outcome.code == 0 and "s of sound" in outcome.err and len(pm.audio(tmp_path / "rain.wav").samples(16000))
    words = polymodal("draw", folder, "--image", tmp_path / "sky.png", "--out", tmp_path / "sky.txt", *usual)
    assert words.code == 0 and (tmp_path / "sky.txt").read_text().endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("rain", "--out", "rain.gif"), "expected a name ending in .png"),
        (("rain", "--mix", "smell=1"), "expected weights of text"),
        (("rain", "--audio", "note.txt"), "the file is no audio"),
        (("rain", "--steps", "0"), "expected 1 to 1000"),
        (("rain", "--steps", "10000"), "expected 1 to 1000"),
        (("",), "the prompt is empty"),
    ],
)
def test_mistakes_cost_a_line(polymodal, folder, arguments, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.txt").write_text("rain", encoding="utf-8")
    outcome = polymodal("draw", folder, *arguments)
    assert is_one_line(outcome) and told in outcome.err


def test_steps_that_no_diffusion_has_are_told_before_a_model_is_loaded(polymodal) -> None:
    outcome = polymodal("draw", "no-such-model", "rain", "--steps", 0)
    assert is_one_line(outcome) and "steps: expected 1 to 1000 steps of diffusion, found 0" in outcome.err
