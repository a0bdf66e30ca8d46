"""A model saved to a folder by polymodal: which system it is, and its own weights.

    folder/polymodal.json       {"format", "system", "variant", "polymodal", "sha256"}
    folder/model.safetensors    every parameter and stored buffer by name, shared ones once

Written whole or not at all: a temporary folder beside it is renamed when complete.  Tokenizer and preprocessing
come from the system, so the published files are fetched as for the system itself; the weights here replace them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

RECORD, WEIGHTS, FORMAT = "polymodal.json", "model.safetensors", 1


def save(folder: Path, module: nn.Module, system: str, variant: str) -> Path:
    """Write the folder; raises ConfigError when it exists and is not a saved model, or cannot be written."""
    from safetensors.torch import save_file

    from polymodal import __version__

    if folder.exists() and not (folder / RECORD).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not a saved model; choose another folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in stored(module).items()}
        save_file(tensors, temporary / WEIGHTS)
        record = {
            "format": FORMAT,
            "system": system,
            "variant": variant,
            "polymodal": __version__,
            "sha256": digest(temporary / WEIGHTS),
        }
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as problem:
        raise ConfigError(f"cannot write {folder}: {problem.strerror}") from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    """What a folder says it is; raises WeightsError when it is not a model saved by polymodal."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except OSError as problem:
        raise WeightsError(f"{folder} is not a model saved by polymodal: it has no {RECORD}") from problem
    except ValueError as problem:
        raise WeightsError(f"{folder / RECORD} is damaged: not JSON") from problem
    needed = {"format", "system", "variant", "sha256"}
    if not isinstance(record, dict) or not needed <= record.keys() or record["format"] != FORMAT:
        raise WeightsError(f"{folder / RECORD} is not a record this version reads; expected format {FORMAT}")
    return record


def fill(folder: Path, module: nn.Module) -> None:
    """Copy the saved weights into a built module of the same system; raises WeightsError unless all fit."""
    import torch

    from polymodal.weights.read import read_safetensors

    if digest(folder / WEIGHTS) != record_of(folder)["sha256"]:
        raise WeightsError(f"{folder / WEIGHTS} is damaged: its hash is not the one in {RECORD}; save it again")
    saved, own = read_safetensors(folder / WEIGHTS), stored(module)
    if odd := sorted(saved.keys() ^ own.keys()):
        raise WeightsError(f"{folder} does not fit this system: {len(odd)} names differ, first '{odd[0]}'")
    with torch.no_grad():
        for name, tensor in own.items():
            if saved.shape(name) != tuple(tensor.shape):
                raise WeightsError(f"{folder}: '{name}' has shape {saved.shape(name)}, expected {tuple(tensor.shape)}")
            tensor.copy_(saved[name])


def stored(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that make the model what it is: parameters and stored buffers, each shared one once."""
    seen: dict[int, str] = {}
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) == name:
            found[name] = tensor
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file; raises WeightsError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise WeightsError(f"cannot read {path}: {problem.strerror}") from problem
