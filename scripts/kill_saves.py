"""Kill a training run with SIGKILL at random instants of its saves, again and again, and look at what is left.

    python scripts/kill_saves.py [--kills 50] [--megabytes 8] [--seed 0] [--ranks 1]

Each time a process goes on from the newest checkpoint and saves at every step; once it has begun a save it is killed
within about the time that one takes.  With --ranks 2 it is two, which share the model and each write their part: the
others are killed a little later than the first, in any order.  Then every checkpoint with a marker must have the hashes
it noted and the newest must load, bit for bit what a run without kills has at its step (else: corrupt), and it must be
no older than the last save the killed processes had finished (else: lost).

Prints the sums, also how many kills fell into a save; exits with 1 where anything was lost or corrupt.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.train import checkpoint, loop
from polymodal.train.objectives import Loss
from polymodal.train.optimizer import AdamW
from polymodal.train.ranks import started
from polymodal.train.recipe import Budget, Stage, as_dict
from polymodal.train.schedule import Constant

WIDTH = 512  # a square linear of it holds a megabyte of float32


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Mean squares of what the model gives."""

    name: ClassVar[str] = "squares"

    def build(self, model: nn.Module) -> Loss:
        return SquaresLoss()


class SquaresLoss(Loss):
    """See Squares."""

    def forward(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"squares": model(batch["x"]).square().mean()}


STAGE = Stage(name="squares", data=(), objective=Squares(), train=("0",), optimizer=AdamW(lr=1e-3), ema=0.9,
              schedule=Constant(), budget=Budget(batch=2, steps=10**6))  # fmt: skip


@dataclass
class Found:
    """The sums.  problems: a line for each thing that was lost or corrupt."""

    kills: int = 0
    inside: int = 0  # kills that left a save unfinished
    steps: int = 0
    lost: int = 0
    corrupt: int = 0
    problems: list[str] = field(default_factory=list)


def model(megabytes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(megabytes))))


def batch(step: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(2, WIDTH, generator=generator)}


def begun(megabytes: int) -> checkpoint.Run:
    return loop.begin(model(megabytes), STAGE, 0)


def child(folder: Path, megabytes: int, told: int) -> None:
    """Train and save at every step; tell which step is saved once the next is run (the first of several does)."""

    def tell(step: int, steps: int, line: dict[str, float]) -> None:
        os.write(told, step.to_bytes(4, "little"))  # the checkpoint of `step` steps is finished

    with started() as ranks:
        options = loop.LoopOptions(report=tell, ranks=ranks)
        loop.run_stage(model(megabytes), STAGE, batch, folder, save_every=1, options=options)


def begin(folder: Path, megabytes: int, ranks: int) -> tuple[list[int], int]:
    """The processes of a run, and the pipe in which they tell."""
    read, write = os.pipe()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if not process:
            try:
                os.close(read)
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                               "MASTER_PORT": str(port)}  # fmt: skip
                child(folder, megabytes, write)
            finally:
                os._exit(1)
        processes.append(process)
    os.close(write)
    return processes, read


def kill_once(folder: Path, megabytes: int, rng: random.Random, takes: float, ranks: int) -> int:
    """Run, kill; the last step that was told of."""
    processes, read = begin(folder, megabytes, ranks)
    left = {path.name for path in folder.glob(".step-*")}
    end, began = time.monotonic() + 120, 0.0
    while not began and time.monotonic() < end:
        if any(os.waitpid(process, os.WNOHANG)[0] for process in processes):
            raise RuntimeError("a process ended by itself")
        began = time.monotonic() if {path.name for path in folder.glob(".step-*")} - left else 0.0
    saves = rng.randrange(4)  # the first of those it makes, or one of the next
    time.sleep(rng.random() * takes + saves * takes)
    rng.shuffle(processes)
    for process in processes:
        os.kill(process, signal.SIGKILL)
        time.sleep(rng.random() * takes / 2 if process != processes[-1] else 0)
    for process in processes:
        os.waitpid(process, 0)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    return int.from_bytes(said[-4:], "little") if said else 0


def look(folder: Path, megabytes: int, told: int, reference: checkpoint.Run, at: int, found: Found) -> int:
    """Compare what is left with the run without kills, which is moved on to the same step; returns that."""
    whole = checkpoint.complete(folder)
    for path in whole:
        marker = json.loads((path / checkpoint.MARKER).read_text())
        if (problem := checkpoint.damage(path, marker[checkpoint.HASHES])) is not None:
            found.corrupt += 1
            found.problems.append(str(problem))
    run, step = begun(megabytes), 0
    try:
        step = checkpoint.restore(folder, run, {"stage": as_dict(STAGE), "seed": 0})
    except (ConfigError, OSError, ValueError) as problem:
        found.corrupt += 1
        found.problems.append(f"{whole[-1:]} does not load: {problem}")
    if step < told:
        found.lost += 1
        found.problems.append(f"the newest checkpoint is of step {step}, {told} had been saved")
    for each in range(at, step):
        loop.train_step(reference, STAGE, batch(each, reference.generator), each)
    same = [torch.equal(left, right) for left, right in zip(run.model.parameters(), reference.model.parameters(),
                                                             strict=True)]  # fmt: skip
    same += [torch.equal(run.average[name], reference.average[name]) for name in reference.average]
    if step and not (all(same) and torch.equal(run.generator.get_state(), reference.generator.get_state())):
        found.corrupt += 1
        found.problems.append(f"step {step} is not what a run without kills has")
    return max(at, step)


def seconds_of_a_save(folder: Path, megabytes: int) -> float:
    """The median of five, after a first one."""
    run, seconds = begun(megabytes), []
    for step in range(6):
        began = time.monotonic()
        checkpoint.save(folder, step, run, {})
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds[1:])


def kill_often(folder: Path, kills: int, megabytes: int, seed: int, ranks: int = 1) -> Found:
    """Kill, look, go on."""
    rng, found, reference, at = random.Random(seed), Found(), begun(megabytes), 0
    loop.train_mode(reference.model)
    takes = seconds_of_a_save(folder / "timed", megabytes)
    for _ in range(kills):
        told = kill_once(folder / "run", megabytes, rng, takes, ranks)
        found.kills += 1
        found.inside += bool(list((folder / "run").glob(".step-*")))
        at = look(folder / "run", megabytes, told, reference, at, found)
    found.steps = at
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = kill_often(Path(folder), args.kills, args.megabytes, args.seed, args.ranks)
    for line in found.problems:
        print(line)
    print(f"{found.kills} kills, {found.inside} of them inside a save, {found.steps} steps saved: "
          f"{found.lost} lost, {found.corrupt} corrupt")  # fmt: skip
    return 1 if found.lost or found.corrupt else 0


if __name__ == "__main__":
    sys.exit(main())
