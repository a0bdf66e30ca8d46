"""Writing tensors as the files they were read from: the same names, formats and nesting, in another folder.

    files_of(source, root)      each weights file that `source` was read from, and which of its tensors go by which name
    write_files(files, tensors, folder)      the same files anew

An index with its shards becomes the one file of the same format; GGUF and packed numbers become plain tensors in
`model.safetensors` under the names they are read by.  Other files keep their names: `.pth`, `.pt`, `.bin` by
`torch.save` under the entry their tensors had, `.npz` by numpy, Flax's as nested tables, a TorchScript
archive as a plain state dict.
Tensors of a file that the model has no use for (a block too many, a text side) are copied.
Traps: numpy has no bfloat16, so such values are written as float32; names that share memory are stored in full, since
a reader asks for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.export import save_safetensors, whole_file
from polymodal.weights.flax_file import save_flax
from polymodal.weights.merged import MergedTensors
from polymodal.weights.tensors import TensorFile, first_line

WEIGHTS = "model.safetensors"
_OF_SHARDS = {"safetensors": WEIGHTS, "torch": "pytorch_model.bin"}
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """One file to write.  path: relative to its folder; names: name inside the file -> name in the whole mapping.

    file: what it was read from, for its other tensors; None where the mapping's own names are written.
    """

    path: Path
    format: str
    names: Mapping[str, str]
    file: TensorFile | None = None


def files_of(source: Mapping[str, Tensor], root: Path, *, one_file: bool = False) -> list[WeightsFile]:
    """The files of a mapping that was read below `root` (a folder, or the one file).

    one_file: the names of the whole mapping in the first of them, for layouts whose further files are found by paths.
    """
    if isinstance(source, MergedTensors):
        opened: dict[int, TensorFile] = {}
        names: dict[int, dict[str, str]] = {}
        for name, (tensors, own) in source.locations.items():
            if not isinstance(tensors, TensorFile):
                return [WeightsFile(path=Path(WEIGHTS), format="safetensors", names={each: each for each in source})]
            opened[id(tensors)] = tensors
            names.setdefault(id(tensors), {})[own] = name
        if not one_file:
            return [_anew(file, root, names[key]) for key, file in opened.items()]
        first = next(iter(opened.values()))
        return [_anew(first, root, {name: name for name in source}, whole=True)]
    if isinstance(source, TensorFile):
        return [_anew(source, root, {name: name for name in source})]
    return [WeightsFile(path=Path(WEIGHTS), format="safetensors", names={name: name for name in source})]


def read_from(source: Mapping[str, Tensor]) -> set[Path]:
    """The files that a mapping reads, where it can tell."""
    if isinstance(source, TensorFile):
        return {source.path}
    if isinstance(source, MergedTensors):
        return {tensors.path for tensors, _ in source.locations.values() if isinstance(tensors, TensorFile)}
    return set()


def _anew(file: TensorFile, root: Path, names: Mapping[str, str], whole: bool = False) -> WeightsFile:
    inside = Path(file.path.name) if root.is_file() else file.path.absolute().relative_to(root.absolute())
    if file.path.name.endswith(".index.json"):
        inside = inside.with_name(_OF_SHARDS[file.format])
    return WeightsFile(path=inside, format=file.format, names=names, file=None if whole else file)


def write_files(files: Sequence[WeightsFile], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files below `folder`.  Raises WeightsError when they cannot be written."""
    for each in files:
        held = {own: tensors[name].detach() for own, name in each.names.items()}
        for own in each.file or ():
            if own not in held:
                assert each.file is not None
                held[own] = each.file[own]
        path = folder / each.path
        if each.format == "npz":
            _save_npz(held, path)
        elif each.format == "flax":
            save_flax(held, path)
        elif each.format == "torch":
            _save_torch(held, path, each.file)
        else:
            said = {} if each.file is None else dict(each.file.metadata)
            metadata = {"format": "pt"} | {key: value for key, value in said.items() if isinstance(value, str)}
            save_safetensors(_apart(held), path, metadata=metadata if each.format == "safetensors" else None)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in memory of its own."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, x in tensors.items():
        memory = x.untyped_storage().data_ptr()
        found[name] = x.clone() if memory in seen and x.numel() else x
        seen.add(memory)
    return found


def _save_npz(tensors: Mapping[str, Tensor], path: Path) -> None:
    arrays: dict[str, Any] = {
        name: (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy() for name, x in tensors.items()
    }
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)


def _save_torch(tensors: Mapping[str, Tensor], path: Path, file: TensorFile | None) -> None:
    """With the plain values that lay beside the tensors; what else held tensors (an optimiser) is left out."""
    key = "" if file is None else file.entry
    whole: dict[str, Any] = {name: x.cpu().contiguous() for name, x in _apart(tensors).items()}
    for part in reversed(key.split(".") if key else []):
        whole = {part: whole}
    said = {} if file is None else file.metadata
    whole = {name: value for name, value in said.items() if _is_plain(value)} | whole
    with whole_file(path) as draft, draft.open("wb") as target:
        try:
            torch.save(whole, target)
        except RuntimeError as error:  # torch's archive writer has no class of its own
            raise WeightsError(f"{path}: cannot be written: {first_line(error)}") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)
