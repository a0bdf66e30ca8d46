"""Numbers of a run go to trackers that are installed; a name that is none is refused before anything is trained."""

from pathlib import Path

import pytest

from polymodal.errors import ConfigError
from polymodal.train import trackers
from polymodal.train.trackers import tracked


def test_unknown_and_missing_trackers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'tensorbord'; there are tensorboard, wandb, trackio"):
        tracked(("tensorbord",), tmp_path).__enter__()
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(ConfigError, match="trackio is not installed: pip install trackio"):
        tracked(("trackio",), tmp_path).__enter__()


def test_every_tracker_gets_each_step_once_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Run:
        def log(self, line: dict[str, float], step: int) -> None:
            told.append((step, line))

        def finish(self) -> None:
            told.append("finished")

    class Module:
        @staticmethod
        def init(**how: object) -> Run:
            told.append(how["name"])
            return Run()

    monkeypatch.setitem(__import__("sys").modules, "wandb", Module)
    with tracked(("wandb", "wandb"), tmp_path / "run") as report:
        report(0, 2, {"loss": 1.5})
        report(1, 2, {"loss": 0.5})
    assert told == ["run", (1, {"loss": 1.5}), (2, {"loss": 0.5}), "finished"]
    assert set(trackers.TRACKERS) == {"tensorboard", "wandb", "trackio"}


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked(("tensorboard",), tmp_path) as report:
        report(0, 2, {"loss": 1.5, "lr": 0.1})
        report(1, 2, {"loss": 0.5, "lr": 0.2})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 1.5), (2, 0.5)]
