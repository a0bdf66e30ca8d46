"""Evaluation in several processes by Ray: the answers and numbers of one, workers that die, one line without Ray.

What needs a cluster is skipped where Ray is not installed: pip install 'polymodal[ray]'.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import polymodal as pm
from polymodal.api.evaluation import EvaluateOptions, measure
from polymodal.api.ray_workers import under_way
from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.task import Task
from tiny_folders import tiny

SEVERAL = EvaluateOptions(batch=2, workers=2)


def lengths(samples: list[Scored]) -> np.ndarray:
    return np.array([len(str(each.prediction)) for each in samples], np.float64)


@dataclass(frozen=True, kw_only=True)
class Deadly(Task):
    """A task whose third question ends the process that asks it, as often as `lives` says."""

    lives: int = 1
    grave: str = ""

    def question(self, record: Any, prompt: str | None = None) -> str:
        said = super().question(record, prompt)
        if said.startswith("Number 3"):
            for life in range(self.lives):
                stone = Path(self.grave) / f"{life}.dead"
                if not stone.exists():
                    stone.touch()
                    os._exit(1)
        return said


COMMON: dict[str, Any] = {
    "name": "talk", "summary": "answers", "verb": "chat", "media": ("image",), "fields": ("question",),
    "prompt": "{question}", "metrics": (Metric(name="length", rows=lengths),), "max_tokens": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ray")
    (place / "model").mkdir()
    tiny("llava-1.5", place / "model")
    rows = []
    for number in range(9):
        Pillow.new("RGB", (20, 30), (25 * number, 80, 90)).save(place / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": f"Number {number}? " + "Why? " * number})
    rows[4]["image"] = "gone.png"
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


@pytest.fixture(scope="module")
def model(place: Path) -> pm.Model:
    return pm.load(place / "model")


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray, with this file's classes sent to workers whole: they cannot import it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'polymodal[ray]'")
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'polymodal[ray]'")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_several_processes_answer_as_one(place: Path, model: pm.Model, tmp_path: Path, with_ray: None) -> None:
    task = Task(**COMMON)
    one = measure(model, task, place / "a.jsonl", out=tmp_path / "one", options=EvaluateOptions(batch=2))
    seen: list[int] = []
    several = measure(model, task, place / "a.jsonl", out=tmp_path / "several", options=SEVERAL,
                      done=lambda count, total: seen.append(count))  # fmt: skip
    assert several.as_dict() == one.as_dict() and seen == [2, 4, 6, 8, 9]
    for name in ("samples.jsonl", "run.json", "result.json"):
        assert (tmp_path / "several" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert len(several.skipped) == 1 and "gone.png" in several.skipped[0]
    again = measure(model, task, place / "a.jsonl", out=tmp_path / "one", options=SEVERAL)
    assert again.as_dict() == one.as_dict(), "a run of one process goes on with several, here with nothing left"


def test_a_worker_that_dies_is_started_again(place: Path, model: pm.Model, tmp_path: Path, with_ray: None) -> None:
    plain = measure(model, Task(**COMMON), place / "a.jsonl", out=tmp_path / "one", options=EvaluateOptions(batch=2))
    deadly = Deadly(**COMMON, grave=str(tmp_path))
    found = measure(model, deadly, place / "a.jsonl", out=tmp_path / "out", options=SEVERAL)
    assert (tmp_path / "0.dead").exists() and found.as_dict() == plain.as_dict()
    assert (tmp_path / "out/samples.jsonl").read_bytes() == (tmp_path / "one/samples.jsonl").read_bytes()


def test_a_sample_that_ends_every_worker_is_named(place: Path, model: pm.Model, tmp_path: Path, with_ray: None) -> None:
    deadly = Deadly(**COMMON, grave=str(tmp_path), lives=50)
    with pytest.raises(ConfigError, match=r"samples 3 to 4 of \S+a.jsonl: a worker ended 4 times; memory may be short"):
        measure(model, deadly, place / "a.jsonl", out=tmp_path / "out", options=SEVERAL)
    assert len(list(tmp_path.glob("*.dead"))) == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "samples.jsonl"}
    assert len((tmp_path / "out/samples.jsonl").read_text().splitlines()) == 2, "what was answered before is kept"


def test_what_a_worker_leaves_behind_is_counted(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), under_way(tmp_path, "part0", 1, "samples 1 to 2"):
        raise ZeroDivisionError  # an error is no death
    for number in range(2):
        (tmp_path / f"part0.{number}").touch()
    with under_way(tmp_path, "part1", 1, "samples 3 to 4"):
        assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ConfigError, match="samples 1 to 2: a worker ended 2 times"), \
            under_way(tmp_path, "part0", 1, "samples 1 to 2"):  # fmt: skip
        pytest.fail("it was begun")


def test_a_mistake_is_the_one_of_a_single_process(place: Path, tmp_path: Path, with_ray: None) -> None:
    other = pm.load(place / "model")
    next(other.parameters()).data.add_(1)
    with pytest.raises(ConfigError, match="as workers load it has other weights than the model that was given"):
        measure(other, Task(**COMMON), place / "a.jsonl", out=tmp_path / "out", options=SEVERAL)


def test_without_ray_one_line_says_what_to_install(
    place: Path, model: pm.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--workers needs the package ray: pip install 'polymodal\[ray\]'"):
        measure(model, Task(**COMMON), place / "a.jsonl", out=tmp_path / "out", options=SEVERAL)
    with pytest.raises(ConfigError, match="retrieval compares all samples at once, in one process; leave --workers"):
        measure(model, "retrieval", _captions(tmp_path), out=tmp_path / "all", options=SEVERAL)


def _captions(place: Path) -> Path:
    Pillow.new("RGB", (20, 30)).save(place / "a.png")
    (place / "captions.jsonl").write_text(json.dumps({"image": "a.png", "captions": ["a"]}))
    return place / "captions.jsonl"
