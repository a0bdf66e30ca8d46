"""Files of `torch.save` and TorchScript archives: named tensors without running any code of the file.

    zip archive     data.pkl -> views of storages (pickled.py, torch_names.py) -> values from the members when asked for
    older stream    magic, version, system, the pickle, keys of storages, the storages one after another

Everything is bounded by the size of the file; nothing but the pickle is read before values are asked for.
Traps: a tensor may be a view of a storage that is larger or ordered otherwise; what is read is the tensor.  Archives
may be of the other order of bytes, or compressed.  Tar archives of torch before 0.4 are refused.
"""

from __future__ import annotations

import mmap
import pickletools
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import open_regular
from polymodal.weights.limits import WeightsLimits, over, weights_limits
from polymodal.weights.pickled import Forbidden, Opaque, Pickle, Unsupported, without_collection, written_out
from polymodal.weights.raw import RawFile, read_head
from polymodal.weights.stored_views import View, check_sizes
from polymodal.weights.tensors import TensorFile, TensorInfo, copy_into, unsound
from polymodal.weights.torch_names import TorchNames
from polymodal.weights.torchscript import script_views
from polymodal.weights.zip_members import Members

_SETTLED = 1_000_000_000
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
# Who looks for a model asks for one entry of a file after another: the last pickle, or what was wrong with it, is kept.
_last: dict[bool, tuple[Any, Parsed | WeightsError]] = {}


class Place(NamedTuple):
    """Where a storage lies: its first byte in the file, or what unpacks it.

    size: its bytes.  native: its values are in this machine's order of bytes.
    """

    begins: int
    size: int
    native: bool
    unpack: Callable[[], bytes] | None = None

    @property
    def plain(self) -> bool:
        return self.native and self.unpack is None


class Parsed(NamedTuple):
    """The value of a file's pickle, with views for tensors, and where storages lie."""

    whole: Any
    places: Mapping[str, Place]


def read_torch(path: str | Path, key: str | None = None) -> TensorFile:
    """Open a file of `torch.save` without running any code from it.

    The file must hold a mapping of names to tensors, or hold it under `key` (dots for nested ones, e.g.
    'model_state_dict'); whatever else is plain data comes back as `metadata`.
    """
    path = Path(path)
    start, size = read_head(path, 512)
    limits = weights_limits()
    parsed = _parsed(path, start, key is None, limits)
    tensors, rest = _named(path, parsed.whole, key)
    try:
        check_sizes(tensors.values(), size, limits)
        for storage in {view.storage for view in tensors.values()}:
            place = parsed.places.get(storage.key)
            if place is None:
                raise ValueError(f"storage {storage.key!r:.40} is not in the file")
            if storage.begins + storage.bytes > place.size:
                count = storage.bytes // storage.dtype.itemsize
                raise ValueError(f"storage {storage.key!r:.40} claims {count} values, it has {place.size} bytes")
    except ValueError as error:
        raise unsound(path, "torch", error) from error
    return _opened(path, tensors, parsed.places, rest, key or "")


def _parsed(path: Path, start: bytes, script: bool, limits: WeightsLimits) -> Parsed:
    """script: whether it may be a TorchScript archive.  Raises WeightsError."""
    found = path.stat()
    safe = frozenset(torch.serialization.get_safe_globals())
    asked = path.absolute(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, safe, limits
    last = _last.get(script)
    settled = time.time_ns() - found.st_mtime_ns > _SETTLED  # else it may change again without a trace
    if last is None or last[0] != asked or not settled:
        last = _last[script] = asked, _parse(path, start, script, limits)
    if isinstance(last[1], WeightsError):
        raise WeightsError(str(last[1]))
    return last[1]


def _parse(path: Path, start: bytes, script: bool, limits: WeightsLimits) -> Parsed | WeightsError:
    if start[:2] != b"PK" and start[257:262] == b"ustar":
        return WeightsError(f"{path}: a tar archive of torch before 0.4; save it again with a newer torch")
    try:
        with without_collection():
            parsed = _archive(path, script, limits) if start[:2] == b"PK" else _stream(path, limits)
            written_out(parsed.whole, limits)
        return parsed
    except (Forbidden, Unsupported) as error:
        return _refused(path, error)
    except WeightsError as error:
        return error
    except Exception as error:
        # The pickle of a damaged file can fail in any way, as can its archive: IndexError, BadZipFile, KeyError ...
        return unsound(path, "torch", error)


def _archive(path: Path, script: bool, limits: WeightsLimits) -> Parsed:
    members = Members(open_regular(path), limits)
    root = next(iter(members.infos), "").partition("/")[0]
    if f"{root}/data.pkl" not in members.infos:
        raise zipfile.BadZipFile("the archive holds no data.pkl")
    if members.infos[f"{root}/data.pkl"].file_size > limits.header:
        raise over("header", "its pickle is longer", limits.header)
    data = members.read(f"{root}/data.pkl")
    order = members.read(f"{root}/byteorder") if f"{root}/byteorder" in members.infos else b"little"
    if order not in (b"little", b"big"):
        raise ValueError("its order of bytes is unknown")
    native, places, folder = order.decode() == sys.byteorder, dict[str, Place](), f"{root}/data/"
    packed = cache(lambda: Members(open_regular(path), limits))  # opened when the first of them is asked for
    for name, info in members.infos.items():
        if name.startswith(folder):
            plain = members.is_plain(name)
            unpack = None if plain else partial(_unpacked, packed, name)
            begins = members.begins(name) if plain else 0
            places[name.removeprefix(folder)] = Place(begins, info.file_size, native, unpack)
    members.file.close()
    if script and f"{root}/constants.pkl" in members.infos:
        return Parsed(script_views(data, limits), places)
    return Parsed(Pickle(data, 0, TorchNames(), limits).load(), places)


def _unpacked(members: Callable[[], Members], name: str) -> bytes:
    return members().read(name)


def _stream(path: Path, limits: WeightsLimits) -> Parsed:
    """A file from before torch 1.6: five pickles, and each storage behind its number of values."""
    names = TorchNames()
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, found = 0, []
        for expected in (_MAGIC, _VERSION, None, None, None):
            part = Pickle(data, at, names, limits)
            found.append(part.load())
            at = part.at
            if expected is not None and (type(found[-1]) is not int or found[-1] != expected):
                raise ValueError("it is no archive, and has neither magic number nor version of torch")
        whole, keys = found[3:]
        if type(keys) is not list:
            raise ValueError("it has no list of storages")
        places: dict[str, Place] = {}
        for each in keys:
            storage = names.storages.get(str(each)) if type(each) in (str, int) else None
            if storage is None or str(each) in places:
                raise ValueError(f"storage {each!r:.40} belongs to no tensor, or is there twice")
            count = storage.bytes // storage.dtype.itemsize
            if int.from_bytes(data[at : at + 8], "little") != count or at + 8 + storage.bytes > len(data):
                raise ValueError(f"storage {each!r:.40} does not have the {count} values that it claims")
            places[str(each)] = Place(at + 8, storage.bytes, sys.byteorder == "little")
            at += 8 + storage.bytes
    return Parsed(whole, places)


def _named(path: Path, whole: Any, key: str | None) -> tuple[dict[str, View], dict[str, Any]]:
    """The tensors of the table at `key`, and the plain values beside them."""
    inner = whole
    for part in key.split(".") if key else ():
        if not isinstance(inner, dict) or part not in inner:
            raise WeightsError(f"{path}: there is no entry {part!r}{_entries(inner)}")
        inner = inner[part]
    if not isinstance(inner, dict) or not all(isinstance(name, str) for name in inner):
        raise WeightsError(f"{path}: expected a table of named tensors, found {type(inner).__name__}")
    tensors = {name: x for name, x in inner.items() if isinstance(x, View)}
    if not tensors:
        raise WeightsError(f"{path}: no tensors at the top; give the entry that holds them{_entries(inner)}")
    rest = {name: x for name, x in inner.items() if name not in tensors}
    for name, x in rest.items():
        if isinstance(x, Opaque) and x.tensor:
            raise WeightsError(
                f"{path}: tensor {name!r} is stored as {x.name}, which is not read; save it as a plain one"
            )
    if key and isinstance(whole, dict):
        rest = {str(name): x for name, x in whole.items() if name != key.split(".")[0]} | rest
    return tensors, rest


def _opened(
    path: Path, tensors: Mapping[str, View], places: Mapping[str, Place], rest: Mapping[str, Any], entry: str
) -> TensorFile:
    infos = {name: TensorInfo(x.shape, str(x.dtype).removeprefix("torch."), x.bytes) for name, x in tensors.items()}
    raw = RawFile(path)

    def load(name: str) -> Tensor:
        return _read(raw, tensors[name], places[tensors[name].storage.key])

    def begins(x: View) -> int:
        return places[x.storage.key].begins + x.begins

    def fill(name: str, out: Tensor, first: int) -> None:
        x = tensors[name]
        if x.contiguous:
            raw.read_into(begins(x) + first * x.dtype.itemsize, x.dtype, out)
        else:
            copy_into(load(name), out, first)

    def pages(name: str) -> Tensor | None:
        x = tensors[name]
        return raw.map(begins(x), x.dtype, x.shape) if x.contiguous else None

    if not all(places[view.storage.key].plain for view in tensors.values()):
        return TensorFile(path, "torch", infos, load, rest, entry=entry)
    return TensorFile(path, "torch", infos, load, rest, fill, pages, entry)


def _read(raw: RawFile, view: View, place: Place) -> Tensor:
    """One tensor, in memory of its own."""
    if not view.bytes:
        return torch.empty(view.shape, dtype=view.dtype)
    if place.unpack is None:
        flat = raw.read(place.begins + view.begins, view.dtype, (view.extent,))
    else:
        held = bytearray(place.unpack())
        flat = torch.frombuffer(held, dtype=view.dtype, count=view.extent, offset=view.begins)
    if not place.native:
        size = view.dtype.itemsize // (2 if view.dtype.is_complex else 1)
        flat = flat.view(torch.uint8).view(-1, size).flip(1).reshape(-1).view(view.dtype)
    found = flat.as_strided(view.shape, view.stride)
    # No more memory than the tensor has, and no value in two places.
    lean = place.unpack is None and found.numel() == view.extent
    return found if lean else found.clone(memory_format=torch.contiguous_format)


def _refused(path: Path, error: Forbidden | Unsupported) -> WeightsError:
    """What a pickle asks for that it may not have; by name, where one can be found."""
    names = [str(error)] if isinstance(error, Forbidden) else _names_in(error.head)
    if not names:
        return unsound(path, "torch", error)
    return WeightsError(
        f"{path}: refused: this pickle asks for the object {names[0]!r}, which can run code; "
        "only tensors and plain values are read, ask for a safetensors file"
    )


def _names_in(start: bytes) -> list[str]:
    """Objects that the first bytes of a plain pickle name, read from its instructions without running them."""
    names: list[str] = []
    texts: list[str] = []
    try:
        for code, value, _ in pickletools.genops(start):
            if code.name == "GLOBAL":
                names.append(str(value).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
            elif isinstance(value, str):
                texts.append(value)
    except Exception:  # damage shows in any way, and the names before it are what was asked for
        return names
    return names


def _entries(value: Any) -> str:
    """' (found: a, b, c)' for the message about a missing entry."""
    names = [str(name) for name in value][:8] if isinstance(value, Mapping) else []
    return f" (found: {', '.join(names)})" if names else ""
