"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a folder `step-00000120/` with the trainable tensors and the buffers beside them, what the objective
holds (teacher, queues, heads), the optimiser's state, the states of the random generators and `complete.json`, which is
written last.  A folder without that marker is ignored, so a run killed while saving resumes from the one before.
Several processes write a part each (parts.py), at the same time into the same folder; any number of them reads it.
Sources for the promise: transformers #35782, anchors.md §4 (completion marker last; temporary folder, then rename).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from polymodal.errors import ConfigError, StorageError
from polymodal.files import read_json
from polymodal.train.parts import Parts, file_name, own
from polymodal.train.ranks import ALONE, Ranks, as_shared, local
from polymodal.weights.cache import file_sha256

MARKER, HASHES, PARTS = "complete.json", "sha256", "parts"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What changes while a stage runs.  generator: of the data.  average: the mean of what trains (average.py)."""

    model: nn.Module
    objective: nn.Module
    optimiser: Optimizer
    generator: torch.Generator
    ranks: Ranks = ALONE
    average: Mapping[str, Tensor] = field(default_factory=dict)


def save(folder: Path, step: int, run: Run, about: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-N` atomically and delete all but the newest `keep`; returns the folder written.  Collective.

    Raises StorageError on every process, the older checkpoints untouched.
    """
    target, ranks, files = folder / f"step-{step:08d}", run.ranks, contents(run)
    temporary = folder / f".{target.name}.{ranks.gathered(os.getpid())[0]}"

    def begin() -> None:
        for left in folder.glob(".step-*"):  # of a run that was killed while it saved
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)

    def finish(hashes: Mapping[str, str]) -> None:
        parts = {PARTS: ranks.count} if ranks.count > 1 else {}
        marker = {**about, "step": step, HASHES: hashes, **parts}
        (temporary / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
        on_disk(temporary / MARKER, temporary)  # before the folder has its name
        if (target / MARKER).is_file():  # the same step again: the one that is there stays, a kill could lose both
            shutil.rmtree(temporary, ignore_errors=True)
            return
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        on_disk(folder)
        for old in complete(folder)[:-keep]:
            leaving = folder / f".{old.name}.old"  # a kill while it is deleted leaves no half of it under its name
            shutil.rmtree(leaving, ignore_errors=True)
            os.replace(old, leaving)
            shutil.rmtree(leaving, ignore_errors=True)

    try:
        _agreed(ranks, begin if ranks.first else lambda: None)
        found = _agreed(ranks, lambda: _write(temporary, files, ranks))
        hashes = {name: each for part in found for name, each in part.items()}
        _agreed(ranks, (lambda: finish(hashes)) if ranks.first else lambda: None)
    except (OSError, SafetensorError) as problem:
        if ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
        newest = complete(folder)
        kept = f"; {newest[-1]} is whole" if newest else ""
        raise StorageError(f"cannot write the checkpoint of step {step} to {folder}: {problem}{kept}") from problem
    return target


def _agreed(ranks: Ranks, action: Callable[[], Any]) -> list[Any]:
    """What the action gives on each process; where it fails on one, every process raises that: none waits for it."""
    problem, found = None, None
    try:
        found = action()
    except (OSError, SafetensorError) as error:
        problem = error
    ranks.agree(problem)
    return ranks.gathered(found)


def _write(folder: Path, files: Mapping[str, dict[str, Tensor]], ranks: Ranks) -> dict[str, str]:
    """The files of this process; their hashes by name."""
    if not folder.is_dir():
        raise OSError(f"process {ranks.rank} does not see {folder}, which process 0 made; give a folder all share")
    paths = {folder / file_name(name, ranks.rank, ranks.count): tensors for name, tensors in files.items()}
    for path, tensors in paths.items():
        save_file(tensors, path)
    on_disk(*paths)
    return {path.name: file_sha256(path) for path in paths}


def on_disk(*paths: Path) -> None:
    """Wait until files and folders are written to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def contents(run: Run) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint that this process writes, by file.  Collective."""
    states = {f"torch.{rank}": state for rank, state in enumerate(run.ranks.gathered(torch.get_rng_state()))}
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model": learned(run.model),
        "objective": run.objective.state_dict(),
        "optimiser": _flatten(run.optimiser),
        "random": {**states, "data": run.generator.get_state()},
    }
    if run.average:
        tensors["average"] = run.average
    return {name: own(each, run.ranks) for name, each in tensors.items()}


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / MARKER).is_file())


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, and the saved buffers of modules that have some (the statistics of a batch norm)."""
    # First, since it gives back what a forward without a backward pass left gathered of a sharded model.
    kept = model.state_dict(keep_vars=True)
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for path, part in model.named_modules():
        if any(p.requires_grad for p in part.parameters(recurse=False)):
            names = [f"{path}.{name}" if path else name for name, _ in part.named_buffers(recurse=False)]
            found |= {name: kept[name] for name in names if name in kept}
    return found


def restore(folder: Path, run: Run, about: Mapping[str, Any]) -> int:
    """Load the newest finished checkpoint into everything given; returns its step, or 0 where there is none.

    Raises ConfigError when the checkpoint belongs to other settings (`about`) or other parameters, or is damaged.
    """
    found = complete(folder)
    if not found:
        return 0
    newest, ranks = found[-1], run.ranks
    marker = read_json(newest / MARKER, error=ConfigError)
    step, parts, hashes = int(marker.pop("step")), int(marker.pop(PARTS, 1)), marker.pop(HASHES, {})
    wanted = json.loads(json.dumps(dict(about)))
    if different := list(differences(marker, wanted)):
        shown = "; ".join(different[:4]) + (f"; and {len(different) - 4} more" if len(different) > 4 else "")
        raise ConfigError(f"{newest} was made with other settings ({shown}): use another folder")
    ranks.agree(damage(newest, dict(sorted(hashes.items())[ranks.rank :: ranks.count])))  # each looks at some
    load_learned(newest, run.model)
    _fill(Parts(newest, "objective", parts), run.objective.state_dict())
    _unflatten(run.optimiser, Parts(newest, "optimiser", parts))
    if run.average:
        _fill(Parts(newest, "average", parts), run.average)
    states = Parts(newest, "random", parts)
    # Another number of processes draws other numbers: there is no state that would be theirs.
    if f"torch.{ranks.count - 1}" in states.names and f"torch.{ranks.count}" not in states.names:
        torch.set_rng_state(states.whole(f"torch.{ranks.rank}"))
    run.generator.set_state(states.whole("data"))
    return step


def damage(folder: Path, hashes: Mapping[str, str]) -> ConfigError | None:
    """What is wrong with the files of a checkpoint, if anything."""
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            return ConfigError(f"{folder / name} is missing; remove {folder}")
        if file_sha256(folder / name) != expected:
            return ConfigError(
                f"{folder / name} is damaged: its SHA-256 is not the one that was noted; remove {folder}"
            )
    return None


def load_learned(path: Path, model: nn.Module) -> None:
    """Put what was learned at a checkpoint into a model prepared for its stage.  Raises ConfigError for another one."""
    _fill(parts_of(path, "model"), learned(model))


def load_objective(path: Path, objective: nn.Module) -> None:
    """Put into an objective what it had learned at a checkpoint."""
    _fill(parts_of(path, "objective"), objective.state_dict())


def load_average(path: Path, model: nn.Module) -> None:
    """Put the running mean of a checkpoint in place of what was learned.  Raises ConfigError where it has none."""
    if not any(path.glob("average.*")):
        raise ConfigError(f"{path} holds no running mean of weights: the stage was run without ema")
    _fill(parts_of(path, "average"), {name: p for name, p in model.named_parameters() if p.requires_grad})


def parts_of(path: Path, name: str) -> Parts:
    """The tensors that a checkpoint keeps under a name, in however many parts."""
    return Parts(path, name, int(read_json(path / MARKER, error=ConfigError).get(PARTS, 1)))


def _fill(parts: Parts, targets: Mapping[str, Tensor]) -> None:
    if parts.names != targets.keys():
        odd = ", ".join(sorted(parts.names ^ targets.keys())[:3])
        raise ConfigError(f"{parts.folder} holds other parameters than this stage trains, for example {odd}")
    with torch.no_grad():
        for name, target in targets.items():
            local(target).copy_(parts.like(name, target))


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """ "stage.optimizer.lr: 0.1, not 0.2": what differs between two values of JSON, by dotted path."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
    elif found != wanted:
        yield f"{path}: {json.dumps(found)}, not {json.dumps(wanted)}"


def _flatten(optimiser: Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def _unflatten(optimiser: Optimizer, parts: Parts) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name in parts.names:
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        alike = parts.shape(name) == list(parameter.shape)  # moments; a count of steps is no matter of rows
        value = as_shared(parts.like(name, parameter), parameter) if alike else parts.whole(name)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
