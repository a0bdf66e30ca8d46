"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a folder `step-00000120/` with the trainable tensors and the buffers beside them, what the objective
holds (teacher, queues, heads), the optimiser's state, the states of the random generators and `complete.json`, which is
written last.  A folder without that marker is ignored, so a run killed while saving resumes from the one before.
Sources for the promise: transformers #35782, anchors.md §4 (completion marker last; temporary folder, then rename).
"""

from __future__ import annotations

import hashlib
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

MARKER, HASHES = "complete.json", "sha256"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What changes while a stage runs.  generator: of the data."""

    model: nn.Module
    objective: nn.Module
    optimiser: Optimizer
    generator: torch.Generator


def save(folder: Path, step: int, run: Run, about: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-N` atomically and delete all but the newest `keep`; returns the folder written."""
    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}"
    for left in folder.glob(".step-*"):  # of a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, step, run, about)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as problem:
        shutil.rmtree(temporary, ignore_errors=True)
        newest = complete(folder)
        kept = f"; {newest[-1]} is whole" if newest else ""
        raise StorageError(f"cannot write the checkpoint of step {step} to {folder}: {problem}{kept}") from problem
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write(folder: Path, step: int, run: Run, about: Mapping[str, Any]) -> None:
    """All files of a checkpoint; the marker last, with the hash of each."""
    states = {"torch": torch.get_rng_state(), "data": run.generator.get_state()}
    files = {
        "model": _copied(learned(run.model)),
        "objective": _copied(run.objective.state_dict()),
        "optimiser": _flatten(run.optimiser),
        "random": states,
    }
    hashes = {}
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        save_file(tensors, path)
        hashes[path.name] = _sha256(path)
    marker = {"step": step, **about, HASHES: hashes}
    (folder / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
    for path in (*folder.iterdir(), folder):  # on the disk before the folder has its name
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / MARKER).is_file())


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, and the saved buffers of modules that have some (the statistics of a batch norm)."""
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept = model.state_dict(keep_vars=True)
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
        if _sha256(newest / name) != expected:
            raise ConfigError(f"{newest / name} is damaged: its SHA-256 is not the one that was noted; remove {newest}")
    for file, targets in (("model", learned(run.model)), ("objective", run.objective.state_dict())):
        tensors = load_file(newest / f"{file}.safetensors")
        if tensors.keys() != targets.keys():
            odd = sorted(tensors.keys() ^ targets.keys())[:3]
            raise ConfigError(f"{newest} holds other parameters than this stage trains, for example {', '.join(odd)}")
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(tensors[name])
    _unflatten(run.optimiser, load_file(newest / "optimiser.safetensors"))
    states = load_file(newest / "random.safetensors")
    torch.set_rng_state(states["torch"])
    run.generator.set_state(states["data"])
    return step


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """ "stage.optimizer.lr: 0.1, not 0.2": what differs between two values of JSON, by dotted path."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
    elif found != wanted:
        yield f"{path}: {json.dumps(found)}, not {json.dumps(wanted)}"


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own: a file takes none that share memory."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _flatten(optimiser: Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v).clone() for i, entry in state.items() for k, v in entry.items()}


def _unflatten(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
