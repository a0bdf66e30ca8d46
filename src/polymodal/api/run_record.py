"""run.json, the record of a training run: what was asked for, from which weights, on which data.

    made(model, stage, settings, mixture, options) -> record      settle(folder, record) writes it, or compares
    record_of(folder) -> record      loaded(record) -> the model as it was before it was trained

Trap: a run names its model by address and its data by path; both must still be what they were, which hashes tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.api.load import load
from polymodal.api.model import Model
from polymodal.data.datasets.mixture import Mixture
from polymodal.errors import ConfigError
from polymodal.files import read_json
from polymodal.nn.first_weight import first_weight
from polymodal.train.checkpoint import differences
from polymodal.train.recipe import Stage, as_dict

RECORD = "run.json"
KEYS = ("model", "dtype", "weights", "stage", "settings", "data", "options")
"""What a run must agree with to go on; beside them stand versions and the time it was begun."""


def made(model: Model, stage: Stage, settings: Sequence[str], mixture: Mixture, options: Any) -> dict[str, Any]:
    """The record as JSON has it.  options: a dataclass."""
    record = {
        "polymodal": version("polymodal"),
        "torch": torch.__version__,
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": address(model),
        "dtype": str(first_weight(model.module).dtype).removeprefix("torch."),
        "weights": fingerprint(model),
        "stage": as_dict(stage),
        "settings": list(settings),
        "data": [each.manifest() for each in mixture.datasets],
        "options": asdict(options),
    }
    return json.loads(json.dumps(record))


def address(model: Model) -> str:
    """What `load` finds the model by again: its system file and variant, its folder, or its name in the catalogue."""
    if model.code is not None and model.path is None:
        return f"{model.code.absolute()}:{model.variant.name}"
    place = model.code or model.path
    return model.name if place is None else str(place.absolute())


def fingerprint(model: Model) -> str:
    """A hash of all weights before they are trained: a run goes on only from the weights it began with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.module.state_dict().items()):
        bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        whole = len(bits) // 8 * 8
        folded = int(np.bitwise_xor.reduce(bits[:whole].view(np.uint64))) if whole else 0
        digest.update(f"{name} {list(tensor.shape)} {folded} {bits[whole:].tobytes().hex()}\0".encode())
    return digest.hexdigest()


def loaded(record: Mapping[str, Any], device: str = "auto") -> Model:
    """The model of a run as it was before, in the dtype it was trained in."""
    return load(record["model"], device=device, dtype=record["dtype"])


def settle(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a new run, or make sure that the one in `folder` is the same.  Raises ConfigError."""
    held = {key: record_of(folder)[key] for key in KEYS} if (folder / RECORD).exists() else None
    if holds(folder, held, {key: record[key] for key in KEYS}, "run"):
        return
    try:
        (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"cannot write into {folder}: {problem.strerror}") from problem


def holds(folder: Path, held: Mapping[str, Any] | None, wanted: Mapping[str, Any], what: str) -> bool:
    """Whether a folder holds this very run already; made, and empty, where it does not.

    held: the record that lies in it, if any; what: "run" or another word for it.  Raises ConfigError for a folder that
    holds another one, or something else, or cannot be made.
    """
    if held is not None:
        different = list(differences(held, wanted))
        if different:
            raise ConfigError(f"{folder} holds another {what} ({'; '.join(different[:4])}); name another folder")
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no {what}; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(f"cannot write into {folder}: {problem.strerror}") from problem
    return False


def record_of(folder: Path) -> dict[str, Any]:
    """run.json of a run.  Raises ConfigError where there is none, or a damaged one."""
    if not (folder / RECORD).is_file():
        raise ConfigError(f"{folder} holds no run of `polymodal train`: there is no {RECORD} in it")
    record = read_json(folder / RECORD, error=ConfigError)
    missing = [key for key in KEYS if not isinstance(record, dict) or key not in record]
    if missing:
        raise ConfigError(f"{folder / RECORD} is damaged: it lacks {', '.join(missing)}")
    return record
