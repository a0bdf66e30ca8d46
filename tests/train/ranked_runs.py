"""What each process of a test with torchrun runs: one or more runs of training, in order.

torchrun ... ranked_runs.py RUNS.json      RUNS: a list of {model, data, out, stage, settings, options, stop, kill}

stage: a name, or {train, frozen, objective}.  stop: the number of steps after which the run ends, with a checkpoint.
kill: the step before whose end the process kills itself.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.train.objectives import LanguageModeling
from polymodal.train.optimizer import AdamW
from polymodal.train.ranks import started
from polymodal.train.recipe import Budget, DataSource, Stage
from polymodal.train.schedule import Constant

STAGE = Stage(name="own", data=(DataSource(name="rows", kind="conversations"),), objective=LanguageModeling(),
              train=("backbone",), optimizer=AdamW(lr=1e-3, clip=0.5), schedule=Constant(), start="parts",
              budget=Budget(batch=5, steps=4, max_length=600, precision="float32"))  # fmt: skip


def stage_of(given: Any) -> Stage | str:
    return given if isinstance(given, str) else replace(STAGE, **{name: tuple(each) for name, each in given.items()})


def run(given: dict[str, Any]) -> list[float]:
    """One run, begun or gone on with."""
    calls = iter(range(1, 10_000))

    def report(step: int, steps: int, line: dict[str, float]) -> None:
        if step + 1 == given.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)

    return pm.fit(
        pm.load(given["model"], dtype="float32"),
        given["data"],
        out=given["out"],
        stage=stage_of(given["stage"]),
        settings=given.get("settings", []),
        options=pm.TrainOptions(**{"save_every": 2, **given.get("options", {})}),
        report=report,
        stop=lambda: next(calls) >= given.get("stop", 10_000),
    )


def main() -> None:
    torch.set_num_threads(1)
    with started():
        for given in json.loads(Path(sys.argv[1]).read_text()):
            run(given)


if __name__ == "__main__":
    main()
