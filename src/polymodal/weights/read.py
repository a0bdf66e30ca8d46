"""Readers of weights files: each gives a lazy, read-only mapping from tensor name to torch tensor (tensors.py).

    read_safetensors(path)    .safetensors, or a `*.safetensors.index.json` that lists shards
    read_gguf(path)           .gguf; quantised tensors are dequantised to float32
    read_torch(path, key)     .pt .pth .bin; only tensors and plain containers, never code; TorchScript archives too
    read_npz(path)            .npz; no pickled objects
    read_flax(path)           .bin or .msgpack of Flax: nested tables of arrays
    read_tfjs(path)           the model.json of a TensorFlow.js graph model, with its files beside it

A source names its format, it is not guessed: `read(path, format)`.  Shapes, dtypes and metadata are known
after opening; values are read when a tensor is asked for, from safetensors and torch files straight into the
memory of a model. Files are not trusted: lengths are checked before memory is taken, headers have limits (limits.py),
damage and code end in one WeightsError.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import open_regular, parse_json, read_json
from polymodal.weights.flax_file import read_flax
from polymodal.weights.gguf_file import dequantise, parse_gguf, type_name
from polymodal.weights.limits import over, weights_limits
from polymodal.weights.raw import RawFile, read_head
from polymodal.weights.stored_views import MAX_SIDE
from polymodal.weights.tensors import TensorFile, TensorInfo, damaged, first_line, torch_dtype, unsound
from polymodal.weights.tfjs import read_tfjs
from polymodal.weights.torch_file import read_torch
from polymodal.weights.zip_members import Members

__all__ = ["TensorFile", "TensorInfo", "read", "read_gguf", "read_npz", "read_safetensors", "read_tfjs", "read_torch"]

_NPY = b"\x93NUMPY"
_NUMBERS = "biufc"  # numpy's letters for booleans, whole, real and complex numbers


def read(path: str | Path, format: str) -> TensorFile:
    """Open `path` as 'safetensors', 'gguf', 'torch', 'npz', 'flax' or 'tfjs'; an index too."""
    readers: dict[str, Callable[[Path], TensorFile]] = {
        "safetensors": read_safetensors,
        "gguf": read_gguf,
        "torch": read_torch,
        "npz": read_npz,
        "flax": read_flax,
        "tfjs": read_tfjs,
    }
    if format not in readers:
        raise WeightsError(f"{path}: unknown weights format {format!r}, expected one of {', '.join(readers)}")
    if format == "torch" and str(path).endswith(".index.json"):
        return _read_shards(Path(path), "torch", read_torch)
    return readers[format](Path(path))


def read_safetensors(path: str | Path) -> TensorFile:
    """Open a safetensors file or the index of a sharded one; tensors keep their stored dtype."""
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path, "safetensors", read_safetensors)
    header, begins = _safetensors_header(path)
    try:
        from safetensors import SafetensorError, safe_open

        with safe_open(path, framework="np"):  # the library's own checks of the header
            raw = RawFile(path)
    except (SafetensorError, OSError) as error:
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
    limits = weights_limits()
    length = int.from_bytes(start, "little")
    if size < 8 or length > size - 8:
        why = f"its header claims {length} bytes, " if size >= 8 else ""
        raise damaged(path, "safetensors", f"{why}the file has {size} bytes")
    if length > limits.header:
        raise unsound(path, "safetensors", over("header", f"its header claims {length} bytes, more", limits.header))
    with open_regular(path) as file:
        text = file.read(8 + length)[8:]
    if text.count(b",") > limits.values:
        raise unsound(path, "safetensors", over("values", "its header has more values", limits.values))
    try:
        header = parse_json(text, "its header")
    except WeightsError as error:
        raise damaged(path, "safetensors", str(error)) from None
    if not isinstance(header, dict):
        raise damaged(path, "safetensors", "its header is not a table of tensors")
    if len(header) > limits.tensors:
        raise unsound(path, "safetensors", over("tensors", "it has more tensors", limits.tensors))
    end = total = 0
    for name, item in header.items():
        if name == "__metadata__":
            continue
        try:
            first, last = item["data_offsets"]
            good = 0 <= first <= last <= size - 8 - length and all(0 <= n < MAX_SIDE for n in item["shape"])
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise damaged(path, "safetensors", f"tensor {name!r} lies outside the file or has no record")
        end, total = max(end, last), total + last - first
    if end != size - 8 - length:
        raise damaged(path, "safetensors", f"its tensors end at byte {8 + length + end}, the file at {size}")
    if total > end:
        raise damaged(path, "safetensors", "its tensors overlap")
    return header, 8 + length


def _read_shards(path: Path, format: str, reader: Callable[[Path], TensorFile]) -> TensorFile:
    """A `weight_map` {tensor: shard file} beside its shards; all opened, so that a missing one is reported first."""
    read_head(path, 1)
    index = read_json(path, what="index")
    try:
        shard_of: dict[str, str] = dict(index["weight_map"])
        names = sorted(set(shard_of.values()))
        inside = all(Path(name).name == name and not name.endswith(".index.json") for name in names)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: no index of {format} files with a 'weight_map': {first_line(error)}") from error
    if not inside:
        raise WeightsError(f"{path}: the index names a shard outside its own folder, or an index for a shard")
    if len(shard_of) > (most := weights_limits().tensors):
        raise WeightsError(f"{path}: {over('tensors', 'the index names more tensors', most)}")
    shards = {name: reader(path.parent / name) for name in names}
    for tensor, name in shard_of.items():
        if tensor not in shards[name]:
            raise WeightsError(f"{path}: tensor {tensor!r} is not in the shard {name!r} that the index names")
    infos = {tensor: shards[name].infos[tensor] for tensor, name in shard_of.items()}

    def fill(name: str, out: Tensor, first: int) -> None:
        shards[shard_of[name]].read_into(name, out, first)

    def pages(name: str) -> Tensor | None:
        return shards[shard_of[name]].map(name)

    said = index.get("metadata")
    metadata = dict(said) if isinstance(said, dict) else {}
    return TensorFile(path, format, infos, lambda name: shards[shard_of[name]][name], metadata, fill, pages)


def read_gguf(path: str | Path) -> TensorFile:
    """Open a GGUF file; values come as float32 in torch order, F16 stays float16.

    `metadata` holds the file's key-values, among them the tokenizer's vocabulary and merges.
    """
    path = Path(path)
    read_head(path, 4)
    with open_regular(path) as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = parse_gguf(path, data)
    infos = {name: TensorInfo(r.shape, type_name(r.kind), r.bytes) for name, r in header.tensors.items()}

    def load(name: str) -> Tensor:
        return torch.from_numpy(dequantise(path, name, header.tensors[name], data))

    return TensorFile(path, "gguf", infos, load, header.metadata)


def read_npz(path: str | Path) -> TensorFile:
    """Open a numpy archive; members with Python objects are refused."""
    path = Path(path)
    start, _ = read_head(path, len(_NPY))
    if start == _NPY:
        raise WeightsError(f"{path}: expected an .npz archive, found a single array")
    limits = weights_limits()
    try:
        members = Members(open_regular(path), limits)
        infos = {name.removesuffix(".npy"): _npz_info(path, members, name) for name in members.infos}
        if len(infos) != len(members.infos):
            raise ValueError("two arrays have one name")
    except WeightsError:
        raise
    except Exception as error:
        # Damage shows as BadZipFile, ValueError, NotImplementedError, SyntaxError (an array header) ...
        raise unsound(path, "npz", error) from error

    def load(name: str) -> Tensor:
        member = f"{name}.npy" if f"{name}.npy" in members.infos else name
        with members.zip.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind not in _NUMBERS:
            raise ValueError(f"an array of type {array.dtype!s:.40} holds no numbers")
        return torch.from_numpy(array)

    return TensorFile(path, "npz", infos, load)


def _npz_info(path: Path, members: Members, member: str) -> TensorInfo:
    """Read one member's header only; the object dtype means pickle."""
    with members.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"member {member!r} has the array version {version}")
        shape, _, dtype = readers[version](file)  # a text of at most 10,000 characters, read as a literal
        begins = file.tell()
    name = member.removesuffix(".npy")
    if dtype.hasobject:
        raise WeightsError(f"{path}: refused: array {name!r} holds pickled objects, which can run code")
    count = math.prod(shape) * max(1, dtype.itemsize)
    if count > (held := members.infos[member].file_size - begins) or not all(0 <= n < MAX_SIDE for n in shape):
        raise ValueError(f"array {name!r} claims {count} bytes, its member has {held}")
    return TensorInfo(tuple(shape), f"{dtype!s:.40}", count)
