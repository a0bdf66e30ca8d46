"""Files of `torch.save` and TorchScript archives: named tensors without running any code of the file.

    pickle (weights_only) -> names and shapes, tensors on the meta device -> values from the archive when asked for

Traps: the format before torch 1.6 is no archive and is read as a whole.  A tensor may be a view of a storage that is
larger or ordered otherwise; what is read is the tensor.  On torch before 2.7 archives are mapped instead.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import pickletools
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.raw import RawFile, read_head
from polymodal.weights.tensors import TensorFile, TensorInfo, copy_into, damaged, first_line
from polymodal.weights.torchscript import Forbidden, script_root, script_tensor, script_views


def read_torch(path: str | Path, key: str | None = None) -> TensorFile:
    """Open a file of `torch.save` without running any code from it.

    The file must hold a mapping of names to tensors, or hold it under `key` (dots for nested ones, e.g.
    'model_state_dict'); whatever else is plain data comes back as `metadata`.
    """
    path = Path(path)
    start, _ = read_head(path, 4)
    zipped = start[:2] == b"PK"
    if zipped and key is None and (found := _read_script(path)) is not None:
        return found
    whole = _unpickled(path, zipped)
    inner = whole
    for part in key.split(".") if key else ():
        if not isinstance(inner, Mapping) or part not in inner:
            raise WeightsError(f"{path}: there is no entry {part!r}{_entries(inner)}")
        inner = inner[part]
    if not isinstance(inner, Mapping) or not all(isinstance(name, str) for name in inner):
        raise WeightsError(f"{path}: expected a table of named tensors, found {type(inner).__name__}")
    tensors = {name: x for name, x in inner.items() if isinstance(x, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: no tensors at the top; give the entry that holds them{_entries(inner)}")
    rest = {name: x for name, x in inner.items() if name not in tensors}
    if key and isinstance(whole, Mapping):
        rest = {str(name): x for name, x in whole.items() if name != key.split(".")[0]} | rest
    infos = {name: TensorInfo(tuple(x.shape), str(x.dtype).removeprefix("torch."), x.nbytes)
             for name, x in tensors.items()}  # fmt: skip
    if not any(x.is_meta for x in tensors.values()):
        return TensorFile(path, "torch", infos, lambda name: tensors[name].detach(), rest, entry=key or "")
    raw = RawFile(path)

    def load(name: str) -> Tensor:
        return _read_view(raw, tensors[name])

    def fill(name: str, out: Tensor, first: int) -> None:
        x = tensors[name]
        if x.is_contiguous():
            raw.read_into(_begins(x) + first * x.itemsize, x.dtype, out)
        else:
            copy_into(load(name), out, first)

    def pages(name: str) -> Tensor | None:
        x = tensors[name]
        return raw.map(_begins(x), x.dtype, tuple(x.shape)) if x.is_contiguous() else None

    return TensorFile(path, "torch", infos, load, rest, fill, pages, key or "")


def _unpickled(path: Path, zipped: bool) -> Any:
    """What the file holds; its tensors on the meta device where their values can be found in the file later.

    Other files are read now: the old format as a whole, archives of unusual kind as mappings.
    """
    try:
        if zipped and _plain_archive(path):
            # Whatever goes wrong here is reported by the ordinary load below.
            with contextlib.suppress(Exception):
                whole = _load(path, "meta", None)
                size = path.stat().st_size
                if all(_ends(x) <= size for x in _tensors_of(whole)):
                    return whole
        return _load(path, "cpu", True if zipped else None)
    except Exception as error:
        # The unpickler of a damaged file can fail in any way: IndexError, UnicodeDecodeError, KeyError ...
        if type(error).__name__ == "UnpicklingError":
            raise _refused(path, error) from None
        raise damaged(path, "torch", f"{type(error).__name__}: {first_line(error)}") from error


def _load(path: Path, device: str, mapped: bool | None) -> Any:
    with warnings.catch_warnings():
        # Its advice about pickle protocols is for who writes files; ours is an error of one line.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)


def _plain_archive(path: Path) -> bool:
    """Whether values lie in the file as they are in memory: not compressed, in this machine's order of bytes."""
    with zipfile.ZipFile(path) as archive:
        stored = all(each.compress_type == zipfile.ZIP_STORED for each in archive.infolist())
        orders = [archive.read(name) for name in archive.namelist() if name.endswith("/byteorder")]
    return stored and all(order.decode("ascii") == sys.byteorder for order in orders)


def _tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors_of(each)


def _begins(x: Tensor) -> int:
    """The byte of the file at which the first value of a tensor on the meta device lies; torch notes it on loading.

    Raises AttributeError where it did not (torch before 2.7, tensors that the pickle computes).
    """
    storage: Any = x.untyped_storage()
    return int(storage._checkpoint_offset) + int(x.storage_offset()) * x.itemsize


def _extent(x: Tensor) -> int:
    """Values of the storage from a tensor's first to its last."""
    return 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0


def _ends(x: Tensor) -> int:
    return _begins(x) + _extent(x) * x.itemsize


def _read_view(raw: RawFile, x: Tensor) -> Tensor:
    if x.is_contiguous():
        return raw.read(_begins(x), x.dtype, tuple(x.shape))
    return raw.read(_begins(x), x.dtype, (_extent(x),)).as_strided(x.shape, x.stride())


def _read_script(path: Path) -> TensorFile | None:
    """A TorchScript archive's tensors, or None for a file of another kind."""
    try:
        archive = zipfile.ZipFile(path)
        root = script_root(archive)
        views = {} if root is None else script_views(archive, root)
    except Forbidden as name:
        raise WeightsError(
            f"{path}: refused: this TorchScript archive asks for the object {str(name)!r}; only modules and tensors "
            "are read, ask for a safetensors file"
        ) from None
    except Exception as error:
        # An unpickler that meets damage fails in any way, as does a zip.
        if isinstance(error, zipfile.BadZipFile):
            return None
        raise damaged(path, "torch", f"{type(error).__name__}: {first_line(error)}") from error
    if root is None:
        return None
    infos = {
        name: TensorInfo(view.shape, str(view.storage.dtype).removeprefix("torch."),
                         math.prod(view.shape) * view.storage.dtype.itemsize)
        for name, view in views.items()
    }  # fmt: skip
    return TensorFile(path, "torch", infos, lambda name: script_tensor(archive, views[name]))


def _refused(path: Path, error: Exception) -> WeightsError:
    """Name the forbidden object of a pickle, from torch's long explanation."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    names = [found.group(1)] if found else _pickle_globals(path)
    if not names and "Unsupported" not in text:
        return damaged(path, "torch", first_line(error))
    what = f"the object {names[0]!r}" if names else "something other than tensors"
    return WeightsError(
        f"{path}: refused: this pickle asks for {what}, which can run code; "
        "only tensors and plain values are read, ask for a safetensors file"
    )


def _pickle_globals(path: Path) -> list[str]:
    """Objects that a plain pickle names, read from its instructions without running them."""
    names: list[str] = []
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for code, value, _ in itertools.islice(pickletools.genops(file), 100_000):
                if code.name == "GLOBAL":
                    names.append(str(value).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif isinstance(value, str):
                    strings.append(value)
    except (ValueError, OSError, IndexError, struct.error, MemoryError):  # a length that no file has
        return names
    return names


def _entries(value: Any) -> str:
    """' (found: a, b, c)' for the message about a missing entry."""
    names = [str(name) for name in value][:8] if isinstance(value, Mapping) else []
    return f" (found: {', '.join(names)})" if names else ""
