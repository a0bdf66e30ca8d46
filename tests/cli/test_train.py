"""`polymodal train` and `export` on the tiny system: what they say, how they stop, what they refuse."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcome import Outcome, is_one_line
from PIL import Image as Pillow

from tiny_folders import tiny

Command = Callable[..., Outcome]
STEPS = ("--set", "budget.steps=6", "--set", "budget.batch=2", "--set", "budget.precision=float32",
         "--set", "budget.max_length=480")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "model").mkdir()
    tiny("llava-1.5", place / "model")
    (place / "photos" / "red").mkdir(parents=True)
    (place / "photos" / "dark_green").mkdir()
    Pillow.new("RGB", (20, 30), (250, 0, 0)).save(place / "photos" / "red" / "1.png")
    Pillow.new("RGB", (20, 30), (0, 90, 0)).save(place / "photos" / "dark_green" / "2.png")
    return place


def test_a_folder_of_labelled_pictures_trains_and_the_model_is_written(
    polymodal: Command, place: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    done = polymodal("train", place / "model", "--stage", "align", "--data", place / "photos", "--question", "Colour?",
                     "--evaluate", place / "photos", "--out", run, "--json", *STEPS)  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["steps"] == done.json["steps_now"] == 6 and done.json["skipped"] == 0
    assert done.json["last_loss"] < done.json["first_loss"] and not done.json["stopped"]
    assert done.json["best_evaluation"] is not None
    assert "step 6 of 6: loss" in done.err
    assert {"run.json", "log.jsonl", "report.html", "plots.png", "best"} <= {path.name for path in run.iterdir()}
    again = polymodal("train", "--resume", run)
    assert again.code == 0 and "is finished: 6 steps; polymodal export" in again.out
    written = polymodal("export", run, out)
    assert written.code == 0 and f"wrote {out}" in written.out
    answer = polymodal(
        "ask", place / "photos" / "red" / "1.png", "Colour?", "--model", out, "--json", "--max-tokens", "3"
    )
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_ends_after_the_step_and_resume_goes_on(
    polymodal: Command, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from polymodal.train import loop

    real, calls = loop.train_step, []

    def pressing(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return real(*given, **named)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(loop, "train_step", pressing)
    run = tmp_path / "run"
    stopped = polymodal("train", place / "model", "--stage", "align", "--data", place / "photos", "--out", run, *STEPS)
    assert stopped.code == 130 and f"stopped at step 2; polymodal train --resume {run} goes on" in stopped.out
    monkeypatch.undo()
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
    went_on = polymodal("train", "--resume", run, "--json")
    assert went_on.code == 0 and went_on.json["steps"] == 6 and went_on.json["steps_now"] == 4
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").open()] == list(range(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "train needs a model and data"),
        (("{model}",), "train needs a model and data"),
        (("{model}", "--data", "nowhere.jsonl", "--stage", "align"), "there is no data at nowhere.jsonl"),
        (("{model}", "--data", "{photos}"), "has the stages align, instruct, instruct-lora; say which"),
        (("{model}", "--data", "{photos}", "--stage", "aline"), "has no stage 'aline'; it has align"),
        (("{model}", "--data", "{photos}", "--stage", "align", "--set", "optimizer.lrr=1"), "did you mean 'lr'"),
        (("{model}", "--data", "{photos}", "--stage", "align", "--weights", "a"), "expected numbers with commas"),
        (("{model}", "--data", "{photos}", "--stage", "align", "--weights", "1,2"), "weights: 2 for 1 data sets"),
        (("{model}", "--data", "{photos}", "--resume", "{photos}"), "--resume takes a run alone"),
        (("--resume", "{photos}"), "holds no run of `polymodal train`"),
    ],
)
def test_mistakes_are_one_line(
    polymodal: Command, place: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [each.format(model=place / "model", photos=place / "photos") for each in arguments]
    outcome = polymodal("train", *given, "--out", tmp_path / "run", *(STEPS if len(given) > 2 else ()))
    assert is_one_line(outcome), outcome
    assert message in outcome.err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_export_of_nothing_is_one_line(polymodal: Command, tmp_path: Path) -> None:
    outcome = polymodal("export", tmp_path, tmp_path / "out")
    assert is_one_line(outcome) and "holds no run" in outcome.err


def test_a_tracker_that_is_none_is_named_before_training(polymodal: Command, place: Path, tmp_path: Path) -> None:
    outcome = polymodal("train", place / "model", "--stage", "align", "--data", place / "photos", "--question", "Hue?",
                        "--out", tmp_path / "run", "--log-to", "mlflow", *STEPS)  # fmt: skip
    assert outcome.code == 2 and is_one_line(outcome) and "tensorboard, wandb, trackio" in outcome.err
    assert not (tmp_path / "run").exists()
