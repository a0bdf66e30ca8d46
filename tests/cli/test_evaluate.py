"""`polymodal evaluate`: what it prints, what it lists, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from outcome import Outcome, is_one_line

Command = Callable[..., Outcome]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"image": f"{n}.png", "label": "ab"[n % 2]}) for n in range(4)))
    (tmp_path / "given.jsonl").write_text("\n".join(json.dumps({"prediction": ["a", "b"]}) for _ in range(4)))
    return path


def test_the_tasks_are_listed(polymodal: Command) -> None:
    table, listed = polymodal("evaluate"), polymodal("evaluate", "--json")
    assert table.code == listed.code == 0
    assert {"task", "summary", "fields", "needs", "model", "metrics"} == set(listed.json[0])
    assert all(each["task"] in table.out for each in listed.json)


def test_predictions_are_scored(polymodal: Command, data: Path, tmp_path: Path) -> None:
    given = ("evaluate", "--task", "classification", "--data", data, "--predictions", data.with_name("given.jsonl"))
    done = polymodal(*given, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["n"] == 4 and done.json["metrics"]["accuracy"]["value"] == 0.5 and done.json["skipped"] == []
    said = polymodal(*given, "--out", tmp_path / "out")
    assert (
        said.code == 0 and "accuracy" in said.out and f"4 samples; see {tmp_path / 'out' / 'report.html'}" in said.out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "classification"), "evaluate needs data: --data FILE; a record of classification has image, label"),
        (("--task", "classify", "--data", "{data}"), "there is no task 'classify'; there are"),
        (("--task", "classification", "--data", "{data}"), "takes a MODEL, or --predictions FILE"),
        (("--task", "classification", "--data", "nowhere.csv", "--predictions", "{data}"), "there is no data at"),
        (("--task", "classification", "--data", "{data}", "--predictions", "{data}"), "data.jsonl:1 has no prediction"),
    ],
)
def test_mistakes_are_one_line(
    polymodal: Command, data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = polymodal("evaluate", *(each.format(data=data) for each in arguments), "--out", tmp_path / "out")
    assert is_one_line(outcome), outcome
    assert message in outcome.err
