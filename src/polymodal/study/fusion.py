"""The fusion study: mini-a to mini-d on equal data, backbone and budget, several seeds each.

    runs, one by one, each in a process of its own (fusion_run.py) -> OUT/runs/<type>-<seed>/result.json
        -> fusion.json: means and spreads, verdicts (verdicts.py) -> fusion.html, fusion.md (fusion_page.py)

A run that is finished is not run again, so a study that was stopped goes on with the same command and loses one run at
most.  Traps: runs of another plan in the folder are refused, since means over unlike runs would say nothing.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.datasets.opening import open_dataset
from polymodal.errors import ConfigError
from polymodal.study import fusion_page, fusion_run
from polymodal.study.fusion_run import PLAN, RESULT, Plan
from polymodal.study.fusion_types import TYPES, FusionType, added_by_speech
from polymodal.study.naming import Naming, Subject
from polymodal.study.verdicts import verdicts
from polymodal.study.writing import processor, write

Say = Callable[[str], None]
QUICK = {"names": 6, "codes": 16, "steps": 30, "batch": 16, "evaluations": 2, "precision": "float32"}
# Memory of large tensors is kept by the process: giving it back and taking it again costs a third of the time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
RIDGES = (1e2, 1e3, 1e4)


@dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """data: pictures with names of one word.  out: the folder.  quick: a trial of a minute at tiny size, on the samples
    of `polymodal check --fetch`; it says nothing about the types.  seeds: runs of each type."""

    out: Path
    data: Path | None = None
    seeds: int = 3
    steps: int = 100
    batch: int = 16
    names: int = 64
    codes: int = 512
    evaluations: int = 4
    quick: bool = False

    def plans(self) -> list[Plan]:
        """All runs, seed by seed, so that what is there of a study that was stopped holds whole seeds."""
        if self.data is None and not self.quick:
            raise ConfigError("study fusion needs data: --data FILE with pictures and names of one word, or --quick")
        given: dict[str, Any] = {
            name: getattr(self, name) for name in ("names", "codes", "steps", "batch", "evaluations")
        }
        given |= QUICK if self.quick else {}
        data, cache = "" if self.quick else str(self.data), str(self.out / "cache")
        return [
            Plan(letter=letter, seed=seed, data=data, cache=cache, **given)
            for seed in range(self.seeds)
            for letter in TYPES
        ]


def study_fusion(options: FusionOptions, say: Say = lambda text: None) -> dict[str, Any]:
    """Run what is missing, write OUT/fusion.json and OUT/fusion.html, and return what the former holds."""
    plans = options.plans()
    options.out.mkdir(parents=True, exist_ok=True)
    subject = plans[0].subject()  # its features are kept, so that no run pays for them
    results: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    for index, plan in enumerate(plans):
        say(f"run {index + 1} of {len(plans)}: {TYPES[plan.letter].id}, seed {plan.seed}")
        results.append(result_of(plan, options.out / "runs" / f"{TYPES[plan.letter].id}-{plan.seed}"))
        if len(results) % len(TYPES) == 0:  # a whole seed
            found = summary(options, subject, results)
            write(options.out / "fusion.json", json.dumps(found, indent=1))
            write(options.out / "fusion.html", fusion_page.document(found))
            write(options.out / "fusion.md", fusion_page.markdown(found))
    return found


def result_of(plan: Plan, folder: Path) -> dict[str, Any]:
    """The result of a run, from its folder where it is there.  Raises ConfigError for one of another plan."""
    if (folder / RESULT).is_file():
        found: dict[str, Any] = json.loads((folder / RESULT).read_text())
        wanted = asdict(plan)
        if different := [name for name, value in wanted.items() if found.get(name) != value and name != "cache"]:
            name = different[0]
            raise ConfigError(
                f"{folder} holds a run with {name} {found.get(name)!r}, asked is {wanted[name]!r}; give another --out"
            )
        return found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(json.dumps(asdict(plan)))
    if not plan.data:
        return fusion_run.run(plan, folder)
    command = [sys.executable, "-m", "polymodal.study.fusion_run", str(folder)]
    done = subprocess.run(command, env={**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}, check=False,
                          stderr=subprocess.PIPE, text=True)  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"the run of {TYPES[plan.letter].id} with seed {plan.seed} failed: {last}")
    return json.loads((folder / RESULT).read_text())  # type: ignore[no-any-return]


def summary(options: FusionOptions, subject: Subject, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that the study says, as JSON."""
    naming = subject.naming
    by_type = {letter: [each for each in results if each["letter"] == letter] for letter in TYPES}
    equal = min(each["cpu"] for each in results)
    plan = asdict(replace(options.plans()[0], cache="", data=Path(options.data).name if options.data else ""))
    found = {
        "study": "fusion",
        "quick": options.quick,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "machine": processor(),
        "data": None if options.data is None else shortened(open_dataset(options.data).manifest()),
        "plan": {name: value for name, value in plan.items() if name not in ("letter", "seed", "cache")},
        "seeds": sorted({each["seed"] for each in results}),
        "names": len(naming.names),
        "learned": int((~naming.held_out).sum()),
        "held_out": int(naming.held_out.sum()),
        "probes": {"features": probe(naming, naming.features.float().flatten(1)),
                   "codes": probe(naming, spelled(naming))},
        "kept_variance": naming.kept_variance,
        "equal_cpu": equal,
        "types": {letter: of_type(TYPES[letter], subject, runs, equal) for letter, runs in by_type.items()},
    }  # fmt: skip
    return found | {"verdicts": [] if options.quick else verdicts(found)}


def shortened(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {**manifest, "path": Path(manifest["path"]).name}


def of_type(kind: FusionType, subject: Subject, runs: Sequence[Mapping[str, Any]], equal: float) -> dict[str, Any]:
    """What the runs of one type say together."""
    first = runs[0]
    points = list(zip(*(each["curve"] for each in runs), strict=True))
    return {
        "id": kind.id,
        "name": kind.name,
        **{name: first[name] for name in ("lr", "trainable", "parameters", "positions", "operations")},
        "text_difference": max(each["text_difference"] for each in runs),
        "speech_parameters": added_by_speech(kind, subject.shape),
        "accuracy": spread([each["curve"][-1]["accuracy"] for each in runs]),
        "loss": spread([each["curve"][-1]["loss"] for each in runs]),
        "equal_cpu_accuracy": spread([at(each["curve"], equal, "accuracy") for each in runs]),
        "cpu": spread([each["cpu"] for each in runs]),
        **{name: spread([each[name] for each in runs])
           for name in ("peak_mb", "tokens_per_second", "samples_per_second")},
        "curve": [{"samples": point[0]["samples"], "cpu": statistics.mean(each["cpu"] for each in point),
                   **{name: spread([each[name] for each in point]) for name in ("accuracy", "loss")}}
                  for point in points],
    }  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over the seeds, and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "deviation": deviation, "values": list(values)}


def at(curve: Sequence[Mapping[str, float]], cpu: float, name: str) -> float:
    """A curve's value after so many CPU seconds, between two points in proportion; of the first point before it."""
    for before, after in pairwise(curve):
        if before["cpu"] <= cpu <= after["cpu"]:
            part = (cpu - before["cpu"]) / max(after["cpu"] - before["cpu"], 1e-9)
            return before[name] + part * (after[name] - before[name])
    return curve[0][name] if cpu < curve[0]["cpu"] else curve[-1][name]


def spelled(naming: Naming) -> Tensor:
    """Float32 [N, S * codes]: which code stands at which place."""
    return F.one_hot(naming.codes.flatten(1), int(naming.codes.max()) + 1).float().flatten(1)


def probe(naming: Naming, x: Tensor) -> float:
    """Held-out accuracy of ridge regression from x [N, D] to the names, of the best of three penalties.

    Solved over samples, which are fewer than the numbers of each.
    """
    names = torch.tensor(list(naming.names))
    wanted = (naming.answers[:, None] == names).float()
    learned, rest = ~naming.held_out, naming.held_out
    centred = x - x[learned].mean(0)
    mean = wanted[learned].mean(0)
    products = centred[learned] @ centred[learned].T
    scores = []
    for penalty in RIDGES:
        alpha = torch.linalg.solve(products + penalty * x.var() * torch.eye(len(products)), wanted[learned] - mean)
        guess = (centred[rest] @ centred[learned].T) @ alpha + mean
        scores.append(float((guess.argmax(1) == wanted[rest].argmax(1)).float().mean()))
    return max(scores)
