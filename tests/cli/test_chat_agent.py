"""`chat` with an agent: requests to its planner, turn after turn, with what was made before; mistakes."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from outcome import Outcome, is_one_line

PICTURE = "image/a0918cdd.png"


@pytest.fixture
def talk(polymodal, monkeypatch, tmp_path, tiny) -> Callable[..., Outcome]:
    """Lines typed to visual-chatgpt, whose planner says `outputs`."""

    def call(outputs: list[str], *lines: str, options: tuple[str, ...] = ()) -> Outcome:
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps(outputs))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        return polymodal("chat", "visual-chatgpt", "--planner", plan, "--tool", tiny, *options)

    return call


def act(tool: str, given: str) -> str:
    return f" Yes\nAction: {tool}\nAction Input: {given}"


def test_a_second_turn_works_on_what_the_first_one_made(talk, photo: Path, tmp_path: Path) -> None:
    outputs = [act("Edge Detection On Image", PICTURE), " No\nAI: Drawn.", " No\nAI: Those are edges."]
    outcome = talk(outputs, f"/file {photo}", "Its edges?", "What did you draw?", "/save talk.json")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == ["Drawn.", "Those are edges."]
    assert outcome.err.count("[made ") == 1  # the picture of the first turn is not written again
    assert len(list(tmp_path.glob("*canny*.png"))) == 1
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [each["content"] for each in saved] == ["Its edges?", "Drawn.", "What did you draw?", "Those are edges."]


def test_json_is_a_line_for_each_turn_and_the_help_lists_what_there_is(talk) -> None:
    outcome = talk([" No\nAI: Hello.", " No\nAI: Bye."], "/help", "Hi", "/new", "Hi", "/undo", options=("--json",))
    answers = [json.loads(line)["answer"] for line in outcome.out.splitlines()]
    assert answers == ["Hello.", "Hello."]  # a new conversation reads the plan from its beginning
    assert "/save" in outcome.err and "/system" not in outcome.err
    assert "command 'undo' is not known" in outcome.err or "unknown command 'undo'" in outcome.err, outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("visual-chatgpt",), "is an agent and needs a planner: --planner"),
        (("TINY", "--planner", "no.json"), "is no agent; it offers chat"),
        (("visual-chatgpt", "--tool", "mini"), "are for agents; name who plans with --planner"),
    ],
)
def test_mistakes(polymodal, tiny, words, said) -> None:
    outcome = polymodal("chat", *[tiny if word == "TINY" else word for word in words])
    assert is_one_line(outcome) and said in outcome.err, outcome.err
