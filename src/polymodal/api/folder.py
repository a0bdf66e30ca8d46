"""A model saved to a folder by polymodal: which system it is, and its own weights.

    folder/polymodal.json       {"format", "system", "variant", "sha256"}; a published one: "layout", "config" too
    folder/model.safetensors    every parameter and stored buffer by name, shared ones once
    folder/*.json, ...          of a published checkpoint: tokenizer, preprocessing and settings, as they were beside it

Written whole or not at all: a temporary folder beside it is renamed when complete.  What came from a published
checkpoint is whole in its folder.  For a system of another kind tokenizer and preprocessing come from the system, so
the published files are fetched as for the system itself; the weights here replace them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from torch import nn

    from polymodal.weights.read import TensorFile

RECORD, WEIGHTS, FORMAT = "polymodal.json", "model.safetensors", 1
BESIDE = (".json", ".txt", ".model", ".jinja")


def save(folder: Path, module: nn.Module, record: Mapping[str, Any], beside: Path | None = None) -> Path:
    """Write the folder.  record: "system", "variant" and what else tells how to build the module; beside: a published
    folder whose small files go with the weights.

    Raises ConfigError when the folder exists and is not a saved model, or cannot be written, and for int8 weights.
    """
    from polymodal.checkpoints.gguf import is_gguf
    from polymodal.checkpoints.gguf_files import GGUFFiles
    from polymodal.nn.quantise import is_quantised
    from polymodal.weights.export import save_safetensors

    if is_quantised(module):
        raise ConfigError("a model with int8 weights cannot be saved; load it without quantise and save that")
    if folder.exists() and not (folder / RECORD).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not a saved model; choose another folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        save_safetensors(module, temporary / WEIGHTS)
        if beside is not None and beside.is_dir():
            _copy_beside(beside, temporary)
        if beside is not None and is_gguf(beside):
            GGUFFiles.at(beside).write(temporary)
        whole = {"format": FORMAT, **record, "sha256": digest(temporary / WEIGHTS)}
        (temporary / RECORD).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as problem:
        raise ConfigError(f"cannot write {folder}: {problem.strerror}") from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _copy_beside(source: Path, target: Path) -> None:
    """Everything of a published folder and of its folders that is neither weights nor an index of them."""
    for path in sorted([*source.glob("*"), *source.glob("*/*")]):
        if path.suffix not in BESIDE or path.name.endswith(".index.json") or path.name == RECORD or not path.is_file():
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


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


def weights(folder: Path) -> TensorFile:
    """The saved weights under the module's own names; raises WeightsError when they are not the ones saved."""
    from polymodal.weights.read import read

    if digest(folder / WEIGHTS) != record_of(folder)["sha256"]:
        raise WeightsError(f"{folder / WEIGHTS} is damaged: its hash is not the one in {RECORD}; save it again")
    return read(folder / WEIGHTS, "safetensors")


def fill(folder: Path, module: nn.Module) -> None:
    """Copy the saved weights into a built module of the same system; raises WeightsError unless all fit."""
    from polymodal.weights.load import load_into, own_table

    tensors = weights(folder)
    load_into(module, tensors, own_table(module, tensors))


def digest(path: Path) -> str:
    """SHA-256 of a file; raises WeightsError when it cannot be read."""
    from polymodal.weights.cache import file_sha256

    try:
        return file_sha256(path)
    except OSError as problem:
        raise WeightsError(f"cannot read {path}: {problem.strerror}") from problem
