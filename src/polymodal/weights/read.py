"""Readers of weights files: each gives a lazy, read-only mapping from tensor name to torch tensor (tensors.py).

    read_safetensors(path)    .safetensors, or a `*.safetensors.index.json` that lists shards
    read_gguf(path)           .gguf; quantised tensors are dequantised to float32
    read_torch(path, key)     .pt .pth .bin; only tensors and plain containers, never code; TorchScript archives too
    read_npz(path)            .npz; no pickled objects

A source names its format, it is not guessed: `read(path, format)`.  Shapes, dtypes and metadata are known
after opening; values are read when a tensor is asked for, from safetensors and torch files straight into the
memory of a model. Files are not trusted: lengths are checked before memory is taken, damage and code end in one
WeightsError.
"""

from __future__ import annotations

import json
import math
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.gguf_file import dequantise, parse_gguf, type_name
from polymodal.weights.raw import RawFile, read_head
from polymodal.weights.tensors import TensorFile, TensorInfo, damaged, first_line, torch_dtype
from polymodal.weights.torch_file import read_torch

__all__ = ["TensorFile", "TensorInfo", "read", "read_gguf", "read_npz", "read_safetensors", "read_torch"]

_MAX_HEADER = 100_000_000


def read(path: str | Path, format: str) -> TensorFile:
    """Open `path` as 'safetensors', 'gguf', 'torch' or 'npz'; of the first two also the index of several files."""
    readers = {"safetensors": read_safetensors, "gguf": read_gguf, "torch": read_torch, "npz": read_npz}
    if format not in readers:
        raise WeightsError(f"{path}: unknown weights format {format!r}, expected one of {', '.join(readers)}")
    if format == "torch" and str(path).endswith(".index.json"):
        return _read_shards(Path(path), "torch", read_torch)
    return readers[format](path)


def read_safetensors(path: str | Path) -> TensorFile:
    """Open a safetensors file or the index of a sharded one; tensors keep their stored dtype."""
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path, "safetensors", read_safetensors)
    header, begins = _safetensors_header(path)
    try:
        from safetensors import SafetensorError, safe_open

        with safe_open(path, framework="pt"):  # the library's own checks of the header
            raw = RawFile(path)
    except SafetensorError as error:
        raise damaged(path, "safetensors", first_line(error)) from error
    metadata = header.pop("__metadata__", None) or {}
    infos: dict[str, TensorInfo] = {}
    for name, item in header.items():
        first, last = item["data_offsets"]
        infos[name] = TensorInfo(tuple(item["shape"]), item["dtype"], last - first)

    def load(name: str) -> Tensor:
        dtype = _readable(path, name, infos[name])
        return raw.read(begins + header[name]["data_offsets"][0], dtype, infos[name].shape)

    def fill(name: str, out: Tensor, first: int) -> None:
        dtype = _readable(path, name, infos[name])
        raw.read_into(begins + header[name]["data_offsets"][0] + first * dtype.itemsize, dtype, out)

    def pages(name: str) -> Tensor | None:
        dtype = _readable(path, name, infos[name])
        return raw.map(begins + header[name]["data_offsets"][0], dtype, infos[name].shape)

    return TensorFile(path, "safetensors", infos, load, metadata, fill, pages)


def _readable(path: Path, name: str, info: TensorInfo) -> torch.dtype:
    """The dtype of a tensor of a safetensors file; WeightsError for one that torch has no type for."""
    dtype = torch_dtype(info.dtype)
    if info.bytes != info.values * dtype.itemsize:
        raise WeightsError(f"{path}: tensor {name!r} is stored as {info.dtype}, which is not read here")
    return dtype


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header, with the checks that give a clearer message than the library's, and where values begin."""
    start, size = read_head(path, 8)
    length = int.from_bytes(start, "little")
    if size < 8 or length > min(_MAX_HEADER, size - 8):
        why = f"its header claims {length} bytes, " if size >= 8 else ""
        raise damaged(path, "safetensors", f"{why}the file has {size} bytes")
    with path.open("rb") as file:
        text = file.read(8 + length)[8:]
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(path, "safetensors", "its header is not JSON") from None
    if not isinstance(header, dict):
        raise damaged(path, "safetensors", "its header is not a table of tensors")
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
            raise damaged(path, "safetensors", f"tensor {name!r} lies outside the file or has no record")
        end = max(end, last)
    if end != size - 8 - length:
        raise damaged(path, "safetensors", f"its tensors end at byte {8 + length + end}, the file at {size}")
    return header, 8 + length


def _read_shards(path: Path, format: str, reader: Callable[[Path], TensorFile]) -> TensorFile:
    """A `weight_map` {tensor: shard file} beside its shards; all opened, so that a missing one is reported first."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        shard_of: dict[str, str] = dict(index["weight_map"])
        names = sorted(set(shard_of.values()))
        inside = all(Path(name).name == name for name in names)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: no index of {format} files with a 'weight_map': {first_line(error)}") from error
    if not inside:
        raise WeightsError(f"{path}: the index names a shard outside its own folder")
    shards = {name: reader(path.parent / name) for name in names}
    for tensor, name in shard_of.items():
        if tensor not in shards[name]:
            raise WeightsError(f"{path}: tensor {tensor!r} is not in the shard {name!r} that the index names")
    infos = {tensor: shards[name].infos[tensor] for tensor, name in shard_of.items()}

    def fill(name: str, out: Tensor, first: int) -> None:
        shards[shard_of[name]].read_into(name, out, first)

    def pages(name: str) -> Tensor | None:
        return shards[shard_of[name]].map(name)

    metadata = dict(index.get("metadata") or {})
    return TensorFile(path, format, infos, lambda name: shards[shard_of[name]][name], metadata, fill, pages)


def read_gguf(path: str | Path) -> TensorFile:
    """Open a GGUF file; values come as float32 in torch order, F16 stays float16.

    `metadata` holds the file's key-values, among them the tokenizer's vocabulary and merges.
    """
    path = Path(path)
    read_head(path, 4)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = parse_gguf(path, data)
    infos = {name: TensorInfo(r.shape, type_name(r.kind), r.bytes) for name, r in header.tensors.items()}

    def load(name: str) -> Tensor:
        return torch.from_numpy(dequantise(path, name, header.tensors[name], data))

    return TensorFile(path, "gguf", infos, load, header.metadata)


def read_npz(path: str | Path) -> TensorFile:
    """Open a numpy archive; members with Python objects are refused."""
    path = Path(path)
    read_head(path, 4)
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
        raise damaged(path, "npz", first_line(error)) from error
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
