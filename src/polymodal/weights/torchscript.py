"""Tensors of a TorchScript archive (`torch.jit.save`; OpenAI's CLIP files), read without running or compiling its code.

    archive/data.pkl   a pickle of the module tree -> names of tensors, each a view (offset, size, stride) of a storage
    archive/data/<n>   storages, little-endian, not compressed
    archive/code/*     never opened

The pickle may name nothing but modules, which become empty shells here, and what makes a tensor or a list of values;
any other name is refused before it is looked up.  A view must lie inside its storage, and a storage must have the bytes
that it claims, before memory is taken.
Trap: attributes that hold a tensor look the same as parameters, so both are given.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_PICKLE = 50_000_000
MAX_DEPTH = 64
STORAGES = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
            "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
            "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
            "BoolStorage": torch.bool}  # fmt: skip
LISTS = frozenset({"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"})


class Forbidden(Exception):
    """The pickle names something that is not on the list; its only argument is that name."""


class Storage(NamedTuple):
    """Values of one type: the archive's member that holds them.  A tuple, so that a pickle cannot change it."""

    member: str
    dtype: torch.dtype
    values: int


class View(NamedTuple):
    """A tensor that has not been read yet.  A tuple, so that a pickle cannot change it once it was checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Callable:
    """A function under a name of the pickle.  It has no attributes that a pickle could set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *values: Any) -> Any:
        return self._function(*values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("a pickle may not change what it names")


def script_root(archive: zipfile.ZipFile) -> str | None:
    """The top folder of a TorchScript archive; None for another zip, such as a file of `torch.save`."""
    names = archive.namelist()
    roots = {name.partition("/")[0] for name in names}
    for root in roots:
        if f"{root}/constants.pkl" in names and f"{root}/data.pkl" in names:
            return root
    return None


def script_views(archive: zipfile.ZipFile, root: str) -> dict[str, View]:
    """Name -> view of every tensor in the tree.  Raises Forbidden, and ValueError and others for damage."""
    if sys.byteorder != "little":
        raise ValueError("TorchScript archives are read on little-endian machines only")
    if archive.getinfo(f"{root}/data.pkl").file_size > MAX_PICKLE:
        raise ValueError(f"its module tree has more than {MAX_PICKLE} bytes")
    return dict(_walk(_Reader(archive, root).load(), "", 0))


def script_tensor(archive: zipfile.ZipFile, view: View) -> Tensor:
    """Read one tensor; it owns its memory."""
    held = bytearray(archive.read(view.storage.member))
    if not view.storage.values:
        return torch.empty(view.shape, dtype=view.storage.dtype)
    flat = torch.frombuffer(held, dtype=view.storage.dtype)
    return flat.as_strided(view.shape, view.stride, view.offset).clone(memory_format=torch.contiguous_format)


class _Reader(pickle.Unpickler):
    """Unpickles the tree; `find_class` and `persistent_load` are the only ways out of plain values."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

        class Module:  # one for this file, so that nothing a file does to it outlives the file
            __slots__ = ("state",)

            def __setstate__(self, state: Any) -> None:
                self.state = state

        self._module = Module

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Callable(_view)
        if (module, name) == ("collections", "OrderedDict"):
            return _Callable(dict)
        if module == "torch.jit._pickle" and (name in LISTS or name == "restore_type_tag"):
            return _Callable(lambda value, *_: value)
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        raise Forbidden(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise ValueError("it refers to something that is not a storage")
        member = f"{self._root}/data/{key}"
        info = self._archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != count * dtype.itemsize:
            raise ValueError(f"storage {key!r} claims {count} values, its member has {info.file_size} bytes")
        return Storage(member, dtype, count)


def _view(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> View:
    numbers = [offset, *shape, *stride]
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor has no storage or a negative size")
    if len(shape) != len(stride) or len(shape) > MAX_DEPTH:
        raise ValueError("a tensor's sizes and strides do not agree")
    empty = 0 in shape
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if not empty and last >= storage.values:
        raise ValueError(f"a tensor reaches value {last} of a storage of {storage.values}")
    # Strides of 0 repeat values; a small file could ask for any amount of memory that way.
    if not empty and any(n > 1 and step == 0 for n, step in zip(shape, stride, strict=True)):
        raise ValueError("a tensor repeats its values")
    return View(storage, offset, tuple(shape), tuple(stride))


def _walk(value: Any, name: str, depth: int) -> Iterator[tuple[str, View]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"its module tree is deeper than {MAX_DEPTH}")
    if isinstance(value, View):
        yield name, value
        return
    state = getattr(value, "state", None) if type(value).__name__ == "Module" else None
    if isinstance(state, Mapping):
        for key, each in state.items():
            yield from _walk(each, f"{name}.{key}" if name else str(key), depth + 1)
