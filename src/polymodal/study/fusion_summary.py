"""What the runs of the fusion study say together, as JSON: means and spreads over the seeds, of pictures and of speech.

results of the runs -> summary -> fusion.json; the page, the tables and the verdicts read nothing else
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.cpu import model_name
from polymodal.data.datasets.opening import open_dataset
from polymodal.study.fusion_types import TYPES, FusionType, added_by_speech
from polymodal.study.hearing import Hearing
from polymodal.study.naming import Naming, Subject

RIDGES = (1e2, 1e3, 1e4)
Runs = Sequence[Mapping[str, Any]]


def summary(subject: Subject, runs: Runs, data: Path | None, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the study says of pictures.  plan: what all runs share."""
    naming = subject.naming
    by_type = {letter: [each for each in runs if each["letter"] == letter] for letter in TYPES}
    equal = min(each["cpu"] for each in runs)
    return {
        "study": "fusion",
        "quick": data is None,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "machine": model_name(),
        "data": manifest(data),
        "plan": {name: value for name, value in plan.items() if name not in ("letter", "seed", "cache")},
        "seeds": sorted({each["seed"] for each in runs}),
        "names": len(naming.names),
        **of_data(naming),
        "equal_cpu": equal,
        "types": {letter: of_type(TYPES[letter], subject, some, equal) for letter, some in by_type.items()},
    }


def speech_summary(subject: Subject, hearing: Hearing, runs: Runs, data: Path | None) -> dict[str, Any]:
    """What it says of speech behind the pictures, of each type, and of mini-a whose shared blocks learn on, too."""
    naming, entry = hearing.naming, hearing.entry
    equal = min(each["cpu"] for each in runs)
    commonest = naming.answers[~naming.held_out].mode().values
    found = {}
    for letter, kind in TYPES.items():
        for shared in (False, True) if kind.shared else (False,):
            some = [each for each in runs if each["letter"] == letter and each["shared"] == shared]
            found[letter + (" shared" if shared else "")] = of_speech(kind, subject, hearing, some, equal)
    return {
        "data": manifest(data),
        "labels": list(naming.names.values()),
        "repeated": hearing.repeated,
        "segments": entry.tokens,
        "codes": entry.codes,
        "most_frequent": float((naming.answers[naming.held_out] == commonest).float().mean()),
        **of_data(naming),
        "equal_cpu": equal,
        "types": found,
    }


def manifest(data: Path | None) -> dict[str, Any] | None:
    """What is noted of a data file, by its name alone."""
    return None if data is None else {**open_dataset(data).manifest(), "path": data.name}


def of_data(naming: Naming) -> dict[str, Any]:
    """How many samples, and what linear regression names from what the encoder gives."""
    return {
        "learned": int((~naming.held_out).sum()),
        "held_out": int(naming.held_out.sum()),
        "probes": {"features": probe(naming, naming.features.float().flatten(1)),
                   "codes": probe(naming, spelled(naming))},
        "kept_variance": naming.kept_variance,
    }  # fmt: skip


def of_type(kind: FusionType, subject: Subject, runs: Runs, equal: float) -> dict[str, Any]:
    """What the runs of one type say together of pictures."""
    return {
        "id": kind.id,
        "name": kind.name,
        **of_runs(runs, equal),
        "text_difference": max(each["text_difference"] for each in runs),
        "speech_parameters": added_by_speech(kind, subject.shape),
    }


def of_speech(kind: FusionType, subject: Subject, hearing: Hearing, runs: Runs, equal: float) -> dict[str, Any]:
    """What the runs of one type say together of speech, and of the pictures before and after it."""
    pictures = [each["pictures"] for each in runs]
    return {
        "id": f"{kind.id}, shared blocks too" if runs[0]["shared"] else kind.id,
        "name": kind.name,
        **of_runs(runs, equal),
        "added": added_by_speech(kind, subject.shape, hearing.entry),
        "pictures_before": spread([each["before"]["accuracy"] for each in pictures]),
        "pictures_after": spread([each["after"]["accuracy"] for each in pictures]),
        "picture_loss_before": spread([each["before"]["loss"] for each in pictures]),
        "picture_loss_after": spread([each["after"]["loss"] for each in pictures]),
        "picture_difference": max(each["difference"] for each in pictures),
        "text_difference": max(each["text_difference"] for each in runs),
        "text_difference_before": max(each["text_difference_before"] for each in runs),
    }


def of_runs(runs: Runs, equal: float) -> dict[str, Any]:
    """Accuracy, cost and curve of runs that differ in the seed alone.  equal: CPU seconds that all runs had."""
    first = runs[0]
    points = list(zip(*(each["curve"] for each in runs), strict=True))
    return {
        **{name: first[name] for name in ("lr", "trainable", "parameters", "positions", "operations")},
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
