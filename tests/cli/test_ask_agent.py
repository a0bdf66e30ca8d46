"""`ask` with an agent: the answer on standard output, each step on standard error, what was made as files; mistakes."""

import json
from pathlib import Path

import pytest
from outcome import is_one_line
from PIL import Image

PICTURE = "image/a0918cdd.png"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A planner's outputs, played again: edges, an unknown tool, a file that is not there, an answer."""
    act = " Yes\nAction: {}\nAction Input: {}"
    outputs = [act.format("Edge Detection On Image", PICTURE), act.format("Fly", "x"),
               act.format("Edge Detection On Image", "/etc/passwd"), " No\nAI: Here they are."]  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(outputs))
    return path


def test_steps_answer_and_files(polymodal, plan, tiny, photo, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("ask", photo, "Its edges?", "-m", "visual-chatgpt", "--planner", plan, "--tool", tiny)
    outcome = polymodal(*words)
    assert outcome.code == 0 and outcome.out == "Here they are.\n"
    lines = outcome.err.splitlines()
    assert lines[0].startswith(f"1. Edge Detection On Image({PICTURE}): image/")
    assert lines[1].startswith("2. Fly(x): refused: there is no tool 'Fly'") and "refused: there is no file" in lines[2]
    (made,) = tmp_path.glob("*canny*.png")
    assert lines[3] == f"[made {made.name}]"
    with Image.open(made) as picture:
        assert picture.size == (512, 320)
    (tmp_path / "out").mkdir()
    told = json.loads(polymodal(*words, "--made-in", "out", "--json").out)
    assert told["answer"] == "Here they are." and told["finish"] == "stop" and len(told["steps"]) == 3
    assert told["made"] == [f"out/{made.name}"] and (tmp_path / "out" / made.name).is_file()
    assert set(told["steps"][0]) == {"tool", "arguments", "result", "error", "model", "made", "seconds"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "visual-chatgpt"), "is an agent and needs a planner: --planner"),
        (("-m", "TINY", "--planner", "PLAN"), "is no agent; it offers chat"),
        (("-m", "visual-chatgpt", "--tool", "mini"), "are for agents; name who plans with --planner"),
        (("-m", "visual-chatgpt", "--planner", "PLAN", "-n", "2", "--temperature", "1"), "an agent answers once"),
        (("-m", "visual-chatgpt", "--planner", "PLAN", "--made-in", "nowhere"), "there is no such folder"),
        (("-m", "visual-chatgpt", "--planner", "missing.json"), "outputs missing.json cannot be read"),
        (("-m", "visual-chatgpt", "--planner", "http://127.0.0.1:9/v1", "--tool", "TINY"), "gives no answer"),
        (("-m", "visual-chatgpt", "--planner", "PLAN", "--tool", "vipergpt"), "vipergpt:tools is no tool for an agent"),
        (
            ("-m", "visual-chatgpt", "--planner", "PLAN", "--tool", "TINY", "--prompt-file", "no.txt"),
            "no.txt cannot be",
        ),
        (("-m", "visual-chatgpt", "--planner", "PLAN", "--each"), "an agent gets all files in one request"),
    ],
)
def test_mistakes(polymodal, plan, tiny, photo, words, said) -> None:
    given = [{"PLAN": plan, "TINY": tiny}.get(word, word) for word in words]
    outcome = polymodal("ask", photo, "What?", *given)
    assert outcome.code == 1 if "gives no answer" in said else is_one_line(outcome)
    assert said in outcome.err, outcome.err
