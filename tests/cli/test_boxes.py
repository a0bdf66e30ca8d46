"""`ask --boxes`: the drawing and the JSON beside the answer, and what is refused."""

import json
from pathlib import Path

import numpy
import pytest
from outcome import is_one_line
from PIL import Image


@pytest.fixture
def finding(tmp_path) -> Path:
    """The tiny system, which finds a dog with a score and a box without a name in every picture."""
    path = tmp_path / "finding.py"
    path.write_text(
        f"import dataclasses, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport tiny_system\n"
        "from polymodal.pipelines.grounding import Grounding, Thing\n"
        "def ground(answer, pictures):\n"
        "    things = [(Thing(label='dog', box=(0.1, 0.25, 0.5, 1.0), score=0.75, picture=i),\n"
        "               Thing(label='', box=(0.5, 0.5, 1.2, 0.9), picture=i)) for i, _ in enumerate(pictures)]\n"
        "    return Grounding(text='A dog.', things=tuple(thing for both in things for thing in both))\n"
        "def load(variant, options):\n"
        "    return dataclasses.replace(tiny_system.load(variant, options), ground=ground)\n"
        "SYSTEM = dataclasses.replace(tiny_system.SYSTEM, id='finding', load=load)\n"
    )
    return path


def test_boxes_are_drawn_and_written_in_pixels(polymodal, finding, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = polymodal("ask", photo, "What is this?", "--boxes", "-m", finding, "--max-tokens", 4)
    assert outcome.code == 0 and outcome.out == "A dog.\n"
    assert (
        "dog 0.75 at [6, 10, 30, 40]" in outcome.err and "2 boxes" in outcome.err and "photo.boxes.png" in outcome.err
    )
    told = json.loads((tmp_path / "photo.boxes.json").read_text())
    dog = {"label": "dog", "box": [6, 10, 30, 40], "score": 0.75, "picture": 0}
    assert told["boxes"] == [dog, {"label": "", "box": [30, 20, 60, 36], "score": None, "picture": 0}]
    assert (told["file"], told["width"], told["height"]) == (str(photo), 60, 40)
    before, after = (numpy.asarray(Image.open(path)) for path in (photo, tmp_path / "photo.boxes.png"))
    assert before.shape == after.shape and (before != after).any()


def test_json_holds_the_boxes_of_every_picture(polymodal, finding, photo, sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("ask", photo, sound, photo, "Which?", "--boxes", "--json", "-m", finding, "--max-tokens", 4)
    told = json.loads(polymodal(*words).out)
    assert told["answer"] == "A dog." and told["model"]
    assert [entry["annotated"] for entry in told["pictures"]] == ["photo-1.boxes.png", "photo-2.boxes.png"]
    assert [entry["boxes"][0]["picture"] for entry in told["pictures"]] == [0, 1]
    assert all((tmp_path / entry["annotated"]).exists() for entry in told["pictures"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("photo", "What?", "--boxes"), "cannot ground"),
        (("sound", "What?", "--boxes", "finding"), "no picture"),
        (("What?", "--boxes", "finding"), "no picture"),
        (("photo", "What?", "--boxes", "--each", "finding"), "--boxes"),
        (("photo", "What?", "--boxes", "-n", 2, "--temperature", 1, "finding"), "one answer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(polymodal, tiny, finding, photo, sound, tmp_path, words, said):
    known = {"photo": photo, "sound": sound}
    model = finding if words[-1] == "finding" else tiny
    outcome = polymodal("ask", *(known.get(word, word) for word in words if word != "finding"), "-m", model)
    assert outcome.code == 2 and is_one_line(outcome) and said in outcome.err
    assert not list(tmp_path.glob("*.boxes.*"))
