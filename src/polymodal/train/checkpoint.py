"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a folder `step-00000120/` with the trainable tensors, the optimiser's state, the states of the
random generators and `complete.json`, which is written last.  A folder without that marker is ignored, so a
run killed while saving resumes from the one before.  Sources for the promise: transformers #35782,
anchors.md §4 (completion marker last; temporary folder, then rename).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from polymodal.errors import ConfigError

MARKER = "complete.json"


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: Optimizer,
    generator: torch.Generator,
    about: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write `folder/step-N` atomically and delete all but the newest `keep`; returns the folder written."""
    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {n: p.detach().contiguous().clone() for n, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, temporary / "model.safetensors")
    save_file(_flatten(optimiser), temporary / "optimiser.safetensors")
    save_file({"torch": torch.get_rng_state(), "data": generator.get_state()}, temporary / "random.safetensors")
    (temporary / MARKER).write_text(json.dumps({"step": step, **about}, indent=1, sort_keys=True))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / MARKER).is_file())


def restore(
    folder: Path, model: nn.Module, optimiser: Optimizer, generator: torch.Generator, about: dict[str, Any]
) -> int:
    """Load the newest finished checkpoint into everything given; returns its step, or 0 where there is none.

    Raises ConfigError when the checkpoint belongs to other settings (`about`) or other parameters.
    """
    found = complete(folder)
    if not found:
        return 0
    newest = found[-1]
    marker = json.loads((newest / MARKER).read_text())
    step = int(marker.pop("step"))
    different = sorted(k for k in {*marker, *about} if marker.get(k) != json.loads(json.dumps(about.get(k))))
    if different:
        raise ConfigError(f"{newest} was made with other settings ({', '.join(different)}): use another folder")
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    tensors = load_file(newest / "model.safetensors")
    if tensors.keys() != learning.keys():
        odd = sorted(tensors.keys() ^ learning.keys())[:3]
        raise ConfigError(f"{newest} holds other parameters than this stage trains, for example {', '.join(odd)}")
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(tensors[name])
    _unflatten(optimiser, load_file(newest / "optimiser.safetensors"))
    states = load_file(newest / "random.safetensors")
    torch.set_rng_state(states["torch"])
    generator.set_state(states["data"])
    return step


def _flatten(optimiser: Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v).clone() for i, entry in state.items() for k, v in entry.items()}


def _unflatten(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
