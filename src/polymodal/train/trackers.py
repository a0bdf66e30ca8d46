"""The numbers of a run in TensorBoard, Weights & Biases or trackio as well, where these are installed.

    with tracked(("tensorboard",), Path("run")) as report:
        pm.fit(model, data, out="run", report=report)

A run keeps its own log in any case (`log.jsonl`); a tracker gets the same numbers under the same names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError

Report = Callable[[int, int, dict[str, float]], None]
Log = Callable[[int, dict[str, float]], None]
PROJECT = "polymodal"


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    """Event files in the run's folder: `tensorboard --logdir RUN`."""
    imported("tensorboard", "tensorboard")
    writer = imported("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, line: dict[str, float]) -> None:
        for name, value in line.items():
            writer.add_scalar(name, value, step)

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def wandb(folder: Path) -> Iterator[Log]:
    """A run of the project "polymodal" by the name of the folder; WANDB_* variables say the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    run = imported("wandb", "wandb").init(project=PROJECT, name=folder.name, dir=str(folder))
    try:
        yield lambda step, line: run.log(line, step=step)
    finally:
        run.finish()


@contextmanager
def trackio(folder: Path) -> Iterator[Log]:
    """A run of the project "polymodal" by the name of the folder; `trackio show` shows it."""
    run = imported("trackio", "trackio").init(project=PROJECT, name=folder.name, resume="allow")
    try:
        yield lambda step, line: run.log(line, step=step)
    finally:
        run.finish()


TRACKERS: dict[str, Callable[..., Any]] = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}


@contextmanager
def tracked(names: Sequence[str], folder: Path) -> Iterator[Report]:
    """Yields report(step, steps, line), which gives the numbers of a step to each of these trackers.

    Raises ConfigError for a name that is none and for a tracker that is not installed, before anything is trained.
    """
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ConfigError(f"there is no tracker {unknown[0]!r}; there are {', '.join(TRACKERS)}")
    with ExitStack() as stack:
        logs = [stack.enter_context(TRACKERS[name](folder)) for name in dict.fromkeys(names)]

        def report(step: int, steps: int, line: dict[str, float]) -> None:
            for log in logs:
                log(step + 1, line)

        yield report


def imported(module: str, package: str) -> Any:
    """A module of a package that need not be there."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"{package} is not installed: pip install {package}") from None
