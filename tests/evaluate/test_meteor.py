"""METEOR by its own program equals what pycocoevalcap gives; without Java or the program one line says what is lacking.

The numbers are those of `fixtures/evaluate_captions.json`, see test_caption_metrics.py.
"""

import json
import subprocess
from pathlib import Path

import pytest

import polymodal as pm
from polymodal.errors import ConfigError
from polymodal.evaluate import meteor
from polymodal.evaluate.meteor import METEOR
from polymodal.evaluate.metric import Scored, measured

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_captions.json").read_text(encoding="utf-8"))
ECHO = """
import sys
for line in sys.stdin:
    kind, *rest = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        print(len(rest) - 1, len(rest[-1].split()), float(rest[-1] in rest[:-1]), flush=True)
    else:
        right = [float(each.split()[2]) for each in rest]
        print(*right, sum(right) / len(right), sep="\\n", flush=True)
"""


@pytest.mark.skipif(bool(METEOR.lacks()), reason=f"METEOR {METEOR.lacks()}")
@pytest.mark.parametrize("case", GOLDEN["sets"][1:], ids=lambda case: f"{len(case['records'])} records")
def test_equals_pycocoevalcap(case: dict) -> None:
    samples = [Scored(record=r, prediction=p) for r, p in zip(case["records"], case["predictions"], strict=True)]
    found = measured(METEOR, samples)
    assert found.value == pytest.approx(case["meteor"], abs=1e-12)
    assert found.rows[:, 0] == pytest.approx(case["meteor_of_each"], abs=1e-12)


def test_what_is_said_to_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that speaks the same lines: a sample scores 1 where it repeats a reference."""
    (tmp_path / "echo.py").write_text(ECHO)
    real = subprocess.Popen
    monkeypatch.setattr(meteor, "jar", lambda: tmp_path / "meteor.jar")
    monkeypatch.setattr(meteor.shutil, "which", lambda name: name)
    monkeypatch.setattr(meteor.subprocess, "Popen", lambda command, **how: real(["python3", "echo.py"], **how))
    records = [{"captions": ["A dog.", "Two dogs!"]}, {"captions": ["a ||| b"]}, {"captions": ["A cat."]}]
    samples = [Scored(record=r, prediction=p) for r, p in zip(records, ["two dogs", "x", ""], strict=True)]
    found = measured(METEOR, samples)
    assert found.rows.tolist() == [[1, 2, 2, 1], [0, 1, 1, 0], [0, 1, 0, 0]] and found.value == pytest.approx(1 / 3)
    (tmp_path / "echo.py").write_text("")
    with pytest.raises(ConfigError, match="METEOR's program stopped"):
        measured(METEOR, samples)


def test_a_metric_that_cannot_run_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "jar", lambda: None)
    monkeypatch.setattr(meteor.shutil, "which", lambda name: name)
    (tmp_path / "data.jsonl").write_text(json.dumps({"image": "a.png", "captions": ["a dog"]}))
    (tmp_path / "said.jsonl").write_text(json.dumps({"prediction": "a dog"}))
    found = pm.measure(None, "captioning", tmp_path / "data.jsonl", out=tmp_path / "out",
                       predictions=tmp_path / "said.jsonl")  # fmt: skip
    assert found.lacking == ("meteor needs its program: pip install --no-deps pycocoevalcap",)
    assert "meteor" not in [metric.name for metric in found.metrics] and len(found.metrics) == 4
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="METEOR needs Java"):
        measured(METEOR, [Scored(record={"captions": ["a"]}, prediction="a")])
