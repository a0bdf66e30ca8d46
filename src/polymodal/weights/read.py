"""Readers of weights files: each gives a lazy, read-only mapping from tensor name to torch tensor.

    read_safetensors(path)    .safetensors, or a `*.safetensors.index.json` that lists shards
    read_gguf(path)           .gguf; quantised tensors are dequantised to float32
    read_torch(path, key)     .pt .pth .bin; only tensors and plain containers, never code; TorchScript archives too
    read_npz(path)            .npz; no pickled objects

A source names its format, it is not guessed: `read(path, format)`.  Shapes, dtypes and metadata are known
after opening; values are read when a tensor is asked for, so a model is filled with one tensor in memory at
a time. Files are not trusted: lengths are checked before memory is taken, damage and code end in one
WeightsError.

Traps: a tensor of a mapping may share memory with the file (torch mmap), copy it before writing to it.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.gguf_file import dequantise, parse_gguf, type_name
from polymodal.weights.torchscript import Forbidden, script_root, script_tensor, script_views

_MAX_HEADER = 100_000_000
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorInfo:
    """Shape, stored type (the name the format uses) and stored bytes of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile(Mapping[str, Tensor]):
    """A mapping name -> tensor that reads a tensor when it is asked for."""

    path: Path
    format: str
    infos: Mapping[str, TensorInfo]
    load: Callable[[str], Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.infos:
            raise KeyError(name)
        try:
            return self.load(name)
        except WeightsError:
            raise
        except Exception as error:
            # zlib, zipfile, numpy and safetensors each have errors of their own for damaged data.
            raise _damaged(self.path, self.format, f"tensor {name!r}: {_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor without reading it."""
        return self.infos[name].shape


def read(path: str | Path, format: str) -> TensorFile:
    """Open `path` as 'safetensors', 'gguf', 'torch' or 'npz'."""
    readers = {"safetensors": read_safetensors, "gguf": read_gguf, "torch": read_torch, "npz": read_npz}
    if format not in readers:
        raise WeightsError(f"{path}: unknown weights format {format!r}, expected one of {', '.join(readers)}")
    return readers[format](path)


def read_safetensors(path: str | Path) -> TensorFile:
    """Open a safetensors file or the index of a sharded one; tensors keep their stored dtype."""
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    header = _safetensors_header(path)
    try:
        from safetensors import SafetensorError, safe_open

        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _damaged(path, "safetensors", _line(error)) from error
    metadata = header.pop("__metadata__", None) or {}
    infos: dict[str, TensorInfo] = {}
    for name, item in header.items():
        first, last = item["data_offsets"]
        infos[name] = TensorInfo(tuple(item["shape"]), item["dtype"], last - first)
    return TensorFile(path, "safetensors", infos, handle.get_tensor, metadata)


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header, with the checks that give a clearer message than the library's."""
    start, size = _begin(path, 8)
    length = int.from_bytes(start, "little")
    if size < 8 or length > min(_MAX_HEADER, size - 8):
        why = f"its header claims {length} bytes, " if size >= 8 else ""
        raise _damaged(path, "safetensors", f"{why}the file has {size} bytes")
    with path.open("rb") as file:
        text = file.read(8 + length)[8:]
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged(path, "safetensors", "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "safetensors", "its header is not a table of tensors")
    end = 0
    for name, item in header.items():
        if name == "__metadata__":
            continue
        try:
            first, last = item["data_offsets"]
            good = 0 <= first <= last <= size - 8 - length and all(n >= 0 for n in item["shape"])
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise _damaged(path, "safetensors", f"tensor {name!r} lies outside the file or has no record")
        end = max(end, last)
    if end != size - 8 - length:
        raise _damaged(path, "safetensors", f"its tensors end at byte {8 + length + end}, the file at {size}")
    return header


def _read_shards(path: Path) -> TensorFile:
    """A `weight_map` {tensor: shard file} beside its shards."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        places: dict[str, str] = dict(index["weight_map"])
        names = sorted(set(places.values()))
        inside = all(Path(name).name == name for name in names)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a safetensors index with a 'weight_map': {_line(error)}") from error
    if not inside:
        raise WeightsError(f"{path}: the index names a shard outside its own folder")
    shards = {name: read_safetensors(path.parent / name) for name in names}
    for tensor, name in places.items():
        if tensor not in shards[name]:
            raise WeightsError(f"{path}: tensor {tensor!r} is not in the shard {name!r} that the index names")
    infos = {tensor: shards[name].infos[tensor] for tensor, name in places.items()}
    metadata = dict(index.get("metadata") or {})
    return TensorFile(path, "safetensors", infos, lambda name: shards[places[name]][name], metadata)


def read_gguf(path: str | Path) -> TensorFile:
    """Open a GGUF file; values come as float32 in torch order, F16 stays float16.

    `metadata` holds the file's key-values, among them the tokenizer's vocabulary and merges.
    """
    path = Path(path)
    _begin(path, 4)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = parse_gguf(path, data)
    infos = {name: TensorInfo(r.shape, type_name(r.kind), r.bytes) for name, r in header.tensors.items()}

    def load(name: str) -> Tensor:
        return torch.from_numpy(dequantise(path, name, header.tensors[name], data))

    return TensorFile(path, "gguf", infos, load, header.metadata)


def read_torch(path: str | Path, key: str | None = None) -> TensorFile:
    """Open a file of `torch.save` without running any code from it.

    The file must hold a mapping of names to tensors, or hold it under `key` (dots for nested ones, e.g.
    'model_state_dict'); whatever else is plain data comes back as `metadata`.
    """
    path = Path(path)
    start, _ = _begin(path, 4)
    zipped = start[:2] == b"PK"
    if zipped and key is None and (found := _read_script(path)) is not None:
        return found
    try:
        with warnings.catch_warnings():
            # Its advice about pickle protocols is for who writes files; ours is the error below.
            warnings.simplefilter("ignore")
            whole = torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except Exception as error:
        # The unpickler of a damaged file can fail in any way: IndexError, UnicodeDecodeError, KeyError ...
        if type(error).__name__ == "UnpicklingError":
            raise _refused(path, error) from None
        raise _damaged(path, "torch", f"{type(error).__name__}: {_line(error)}") from error
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
    infos = {
        name: TensorInfo(tuple(x.shape), str(x.dtype).removeprefix("torch."), x.numel() * x.element_size())
        for name, x in tensors.items()
    }
    return TensorFile(path, "torch", infos, lambda name: tensors[name].detach(), rest)


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
        raise _damaged(path, "torch", f"{type(error).__name__}: {_line(error)}") from error
    if root is None:
        return None
    infos = {
        name: TensorInfo(view.shape, str(view.storage.dtype).removeprefix("torch."),
                         math.prod(view.shape) * view.storage.dtype.itemsize)
        for name, view in views.items()
    }  # fmt: skip
    return TensorFile(path, "torch", infos, lambda name: script_tensor(archive, views[name]))


def read_npz(path: str | Path) -> TensorFile:
    """Open a numpy archive; members with Python objects are refused."""
    path = Path(path)
    _begin(path, 4)
    infos: dict[str, TensorInfo] = {}
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise WeightsError(f"{path}: expected an .npz archive, found a single array")
        with zipfile.ZipFile(path) as members:
            for name in archive.files:
                infos[name] = _npz_info(path, members, name)
    except WeightsError:
        raise
    except Exception as error:
        # Damage shows as BadZipFile, ValueError, NotImplementedError, SyntaxError (an array header) ...
        raise _damaged(path, "npz", _line(error)) from error
    return TensorFile(path, "npz", infos, lambda name: torch.from_numpy(np.array(archive[name])))


def _npz_info(path: Path, members: zipfile.ZipFile, name: str) -> TensorInfo:
    """Read one member's header only; the object dtype means pickle."""
    inside = set(members.namelist())
    member = f"{name}.npy" if f"{name}.npy" in inside else name
    with members.open(member) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"member {name!r} has the array version {version}")
        shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise WeightsError(f"{path}: refused: array {name!r} holds pickled objects, which can run code")
    count = math.prod(shape) * dtype.itemsize
    if count > members.getinfo(member).file_size:
        raise ValueError(f"array {name!r} claims {count} bytes, its member has fewer")
    return TensorInfo(tuple(shape), str(dtype), count)


def _begin(path: Path, count: int) -> tuple[bytes, int]:
    """First bytes and size of a file, after the checks that hold for every format."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(max(count, len(_LFS)))
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if size == 0:
        raise WeightsError(f"{path}: the file is empty; download it again")
    if start.startswith(_LFS):
        raise WeightsError(f"{path}: this is a git-lfs pointer, not the weights; run `git lfs pull`")
    return start[:count], size


def _refused(path: Path, error: Exception) -> WeightsError:
    """Name the forbidden object of a pickle, from torch's long explanation."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    names = [found.group(1)] if found else _pickle_globals(path)
    if not names and "Unsupported" not in text:
        return _damaged(path, "torch", _line(error))
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


def _damaged(path: Path, format: str, why: str) -> WeightsError:
    return WeightsError(f"{path}: not a sound {format} file: {why}; download it again")


def _line(error: BaseException) -> str:
    """The first line of an error's message, for a message of one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
