"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a folder `step-00000120/` with the trainable tensors and the buffers beside them, what the objective
holds (teacher, queues, heads), the optimiser's state, the states of the random generators and `complete.json`, which is
written last.  A folder without that marker is ignored, so a run killed while saving resumes from the one before.
Sources for the promise: transformers #35782, anchors.md §4 (completion marker last; temporary folder, then rename).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from polymodal.errors import ConfigError, StorageError
from polymodal.files import read_json
from polymodal.train.ranks import ALONE, Ranks, shared_like, whole
from polymodal.weights.cache import file_sha256

MARKER, HASHES = "complete.json", "sha256"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What changes while a stage runs.  generator: of the data."""

    model: nn.Module
    objective: nn.Module
    optimiser: Optimizer
    generator: torch.Generator
    ranks: Ranks = ALONE


def save(folder: Path, step: int, run: Run, about: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-N` atomically and delete all but the newest `keep`; returns the folder written."""
    target, files = folder / f"step-{step:08d}", contents(run)
    problem: Exception | None = None
    if run.ranks.first:
        try:
            _save(folder, target, {"step": step, **about}, files)
            for old in complete(folder)[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
        except StorageError as error:
            problem = error
    run.ranks.agree(problem)
    return target


def _save(folder: Path, target: Path, about: Mapping[str, Any], files: Mapping[str, dict[str, Tensor]]) -> None:
    """Write one checkpoint under another name and rename it.  Raises StorageError, the older ones untouched."""
    temporary = folder / f".{target.name}.{os.getpid()}"
    for left in folder.glob(".step-*"):  # of a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, about, files)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as problem:
        shutil.rmtree(temporary, ignore_errors=True)
        newest = complete(folder)
        kept = f"; {newest[-1]} is whole" if newest else ""
        raise StorageError(
            f"cannot write the checkpoint of step {about['step']} to {folder}: {problem}{kept}"
        ) from problem


def contents(run: Run) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint by file, whole whatever number of processes shares them.  Collective."""
    states = {f"torch.{rank}": state for rank, state in enumerate(run.ranks.gathered(torch.get_rng_state()))}
    return {
        "model": _copied(learned(run.model)),
        "objective": _copied(run.objective.state_dict()),
        "optimiser": _flatten(run.optimiser),
        "random": {**states, "data": run.generator.get_state()},
    }


def _write(folder: Path, about: Mapping[str, Any], files: Mapping[str, dict[str, Tensor]]) -> None:
    """All files of a checkpoint; the marker last, with the hash of each."""
    hashes = {}
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        save_file(tensors, path)
        hashes[path.name] = file_sha256(path)
    marker = {**about, HASHES: hashes}
    (folder / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
    for path in (*folder.iterdir(), folder):  # on the disk before the folder has its name
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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

    Raises ConfigError when the checkpoint belongs to other settings (`about`) or other parameters.
    """
    found = complete(folder)
    if not found:
        return 0
    newest = found[-1]
    marker = read_json(newest / MARKER, error=ConfigError)
    step = int(marker.pop("step"))
    hashes = marker.pop(HASHES, {})
    wanted = json.loads(json.dumps(dict(about)))
    if different := list(differences(marker, wanted)):
        shown = "; ".join(different[:4]) + (f"; and {len(different) - 4} more" if len(different) > 4 else "")
        raise ConfigError(f"{newest} was made with other settings ({shown}): use another folder")
    for name, expected in hashes.items():
        if file_sha256(newest / name) != expected:
            raise ConfigError(f"{newest / name} is damaged: its SHA-256 is not the one that was noted; remove {newest}")
    load_learned(newest, run.model)
    _fill(newest / "objective.safetensors", run.objective.state_dict())
    _unflatten(run.optimiser, load_file(newest / "optimiser.safetensors"))
    states = load_file(newest / "random.safetensors")
    # Another number of processes draws other numbers: there is no state that would be theirs.
    if f"torch.{run.ranks.count - 1}" in states and f"torch.{run.ranks.count}" not in states:
        torch.set_rng_state(states[f"torch.{run.ranks.rank}"])
    run.generator.set_state(states["data"])
    return step


def load_learned(path: Path, model: nn.Module) -> None:
    """Put what was learned at a checkpoint into a model prepared for its stage.  Raises ConfigError for another one."""
    _fill(path / "model.safetensors", learned(model))


def _fill(path: Path, targets: Mapping[str, Tensor]) -> None:
    tensors = load_file(path)
    if tensors.keys() != targets.keys():
        odd = ", ".join(sorted(tensors.keys() ^ targets.keys())[:3])
        raise ConfigError(f"{path.parent} holds other parameters than this stage trains, for example {odd}")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(shared_like(tensors[name], target))


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """ "stage.optimizer.lr: 0.1, not 0.2": what differs between two values of JSON, by dotted path."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
    elif found != wanted:
        yield f"{path}: {json.dumps(found)}, not {json.dumps(wanted)}"


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own: a file takes none that share memory."""
    return {name: whole(tensor.detach()).clone().contiguous() for name, tensor in tensors.items()}


def _flatten(optimiser: Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": whole(torch.as_tensor(v)).clone() for i, entry in state.items() for k, v in entry.items()}


def _unflatten(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = shared_like(value, parameters[int(index)])
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
