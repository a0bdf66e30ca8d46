"""A model saved to a folder by polymodal: what it is, and what `pm.load` needs to build it again.

    folder/polymodal.json       {"format", "system", "variant", "files", "sha256": {weights file: hash}};
                                of a published checkpoint "layout" and "config" too, of a system file "code"
    folder/<weights files>      of a published checkpoint the files, formats and names that it was read from, so that
                                what reads the one reads the other; else model.safetensors under the module's own names
    folder/polymodal.extra      parameters that the published layout has no name or no room for (safetensors)
    folder/*.json, ...          of a published checkpoint: tokenizer, preprocessing and settings, as they were beside it

Format 1, which older versions wrote, has the module's own names in model.safetensors and one hash.

Written whole or not at all: everything is written to a draft, then moved into its place by renames that are undone
when one of them fails.  A folder that exists keeps its own inode (it may be a mount point, the target of a link or the
working directory) and the files in it that no save wrote.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError, WeightsError
from polymodal.fields import shown
from polymodal.files import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polymodal.weights.read import TensorFile

RECORD, WEIGHTS, EXTRA, FORMAT = "polymodal.json", "model.safetensors", "polymodal.extra", 2
_DRAFT, _OLD = ".polymodal-save", ".polymodal-old"
_OF_THE_DISK = {"lost+found"}


def write(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make `folder` what fill(draft) writes; returns it as it was given.

    Raises ConfigError, with everything as it was, when the folder exists and is not a saved model, or when it cannot be
    written; what `fill` raises comes through.
    """
    try:
        real = folder.resolve()
        exists = real.is_dir()
        if not exists and real.exists():
            raise ConfigError(f"{folder} is a file; choose a folder")
    except (OSError, RuntimeError) as problem:  # a name too long, a loop of links
        raise ConfigError(f"cannot write {folder}: {getattr(problem, 'strerror', None) or problem}") from problem
    if exists and not (real / RECORD).is_file() and any(each.name not in _OF_THE_DISK for each in real.iterdir()):
        raise ConfigError(f"{folder} exists and is not a saved model; choose another folder")
    draft = real / f"{_DRAFT}-{os.getpid()}" if exists else real.with_name(f".{real.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        fill(draft)
        if exists:
            _move_in(draft, real)
        else:
            os.replace(draft, real)
    except OSError as problem:
        raise _cannot(folder, problem) from problem
    except WeightsError as problem:
        if isinstance(problem.__cause__, OSError):  # of a weights file inside the draft, which is gone now
            raise _cannot(folder, problem.__cause__) from problem
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _cannot(folder: Path, problem: OSError) -> ConfigError:
    from polymodal.weights.cache import DISK_FULL

    full = problem.errno in DISK_FULL
    why = "the disk is full; free some space or choose another disk" if full else problem.strerror or str(problem)
    return ConfigError(f"cannot write {folder}: {why} (what was there is as it was)")


def _move_in(draft: Path, folder: Path) -> None:
    """Put the draft's files into the folder in place of those that the last save wrote; OSError with all as it was.

    The record goes first and comes last: without it the folder is not taken for a saved model.
    """
    new = [path.relative_to(draft) for path in _files(draft)]
    gone = [path for path in _written(folder) if (folder / path).exists()]
    gone += [path for path in new if path not in gone and (folder / path).exists()]
    gone.sort(key=lambda path: path.name != RECORD)
    new.sort(key=lambda path: path.name == RECORD)
    aside, done = folder / f"{_OLD}-{os.getpid()}", []
    try:
        for source, target, paths in ((folder, aside, gone), (draft, folder, new)):
            for path in paths:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(source / path, target / path)
                done.append((source / path, target / path))
    except OSError:
        for source, target in reversed(done):
            os.replace(target, source)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _written(folder: Path) -> list[Path]:
    """The files that the save before wrote, inside the folder."""
    try:
        named = record_of(folder).get("files", [RECORD, WEIGHTS])
    except WeightsError:
        return []
    paths = [Path(name) for name in named if isinstance(name, str)]
    return [path for path in paths if not path.is_absolute() and ".." not in path.parts]


def write_record(draft: Path, record: dict[str, Any], weights: Sequence[Path]) -> None:
    """The record of a folder that is complete but for it.  weights: the files whose hashes it names."""
    hashes = {path.as_posix(): digest(draft / path) for path in weights}
    files = [*(path.relative_to(draft).as_posix() for path in _files(draft)), RECORD]
    whole = {"format": FORMAT, **record, "files": files, "sha256": hashes}
    (draft / RECORD).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def record_of(folder: Path) -> dict[str, Any]:
    """What a folder says it is; raises WeightsError when it is not a model saved by polymodal."""
    try:
        there = (folder / RECORD).exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise WeightsError(f"{folder} is not a model saved by polymodal: it has no {RECORD}")
    record = read_json(folder / RECORD)
    kinds = {1: str, FORMAT: dict}
    whole = isinstance(record, dict) and {"format", "system", "variant", "sha256"} <= record.keys()
    if (
        not whole
        or type(record["format"]) is not int
        or record["format"] not in kinds
        or not isinstance(record["sha256"], kinds[record["format"]])
    ):
        raise WeightsError(f"{folder / RECORD} is not a record this version reads; expected format 1 or {FORMAT}")
    hashes = record["sha256"].values() if isinstance(record["sha256"], dict) else ()
    for name, value in (("system", record["system"]), ("variant", record["variant"]), *(("sha256", x) for x in hashes)):
        if not isinstance(value, str):
            raise WeightsError(f"{folder / RECORD}: {name} must be a text, found {shown(value)}")
    if not isinstance(record.get("files", []), list):
        raise WeightsError(f"{folder / RECORD}: files must be a list, found {shown(record['files'])}")
    return record


def has_own_names(folder: Path) -> bool:
    """Whether the weights of a saved folder have the module's names, and not those of a published layout."""
    record = record_of(folder)
    return record["format"] == 1 or "config" not in record


def weights(folder: Path) -> TensorFile:
    """The saved weights under the module's own names; raises WeightsError when they are not the ones saved."""
    check_hashes(folder)
    return own_tensors(folder)


def own_tensors(folder: Path) -> TensorFile:
    """The same without reading all of them for their hash."""
    from polymodal.weights.read import read

    return read(folder / WEIGHTS, "safetensors")


def check_hashes(folder: Path) -> None:
    """Raises WeightsError unless the weights files of a saved folder are the ones that were saved."""
    record = record_of(folder)
    hashes = {WEIGHTS: record["sha256"]} if record["format"] == 1 else record["sha256"]
    for name, expected in hashes.items():
        if digest(folder / name) != expected:
            raise WeightsError(f"{folder / name} is damaged: its hash is not the one in {RECORD}; save it again")


def fill(folder: Path, module: nn.Module) -> None:
    """Copy the saved weights into a built module of the same system; raises WeightsError unless all fit."""
    from polymodal.weights.load import load_into, own_table

    tensors = weights(folder)
    load_into(module, tensors, own_table(module, tensors))


def fill_extra(folder: Path, module: nn.Module) -> None:
    """Copy what the published layout has no name for into a module that is filled but for it."""
    import torch

    from polymodal.weights.read import read

    if not (folder / EXTRA).is_file():
        return
    state: dict[str, Tensor] = module.state_dict()
    for name, value in read(folder / EXTRA, "safetensors").items():
        if name not in state or state[name].shape != value.shape:
            raise WeightsError(f"{folder / EXTRA}: the model has no {name!r} of shape {tuple(value.shape)}")
        with torch.no_grad():
            state[name].copy_(value)


def digest(path: Path) -> str:
    """SHA-256 of a file; raises WeightsError when it cannot be read."""
    from polymodal.weights.cache import file_sha256

    try:
        return file_sha256(path)
    except OSError as problem:
        raise WeightsError(f"cannot read {path}: {problem.strerror}") from problem
