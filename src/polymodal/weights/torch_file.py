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
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
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

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
Locate = Callable[[Iterable[View]], "dict[str, Place]"]


class Place(NamedTuple):
    """Where a storage lies: its first byte in the file, or what unpacks it.

    native: its values are in this machine's order of bytes.
    """

    begins: int
    native: bool
    unpack: Callable[[], bytes] | None = None

    @property
    def plain(self) -> bool:
        return self.native and self.unpack is None


def read_torch(path: str | Path, key: str | None = None) -> TensorFile:
    """Open a file of `torch.save` without running any code from it.

    The file must hold a mapping of names to tensors, or hold it under `key` (dots for nested ones, e.g.
    'model_state_dict'); whatever else is plain data comes back as `metadata`.
    """
    path = Path(path)
    start, size = read_head(path, 512)
    limits = weights_limits()
    try:
        if start[:2] != b"PK" and start[257:262] == b"ustar":
            raise WeightsError(f"{path}: a tar archive of torch before 0.4; save it again with a newer torch")
        with without_collection():
            whole, locate = _archive(path, key, limits) if start[:2] == b"PK" else _stream(path, limits)
            written_out(whole, limits)
        tensors, rest = _named(path, whole, key)
        check_sizes(tensors.values(), size, limits)
        places = locate(tensors.values())
    except WeightsError:
        raise
    except (Forbidden, Unsupported) as error:
        raise _refused(path, error) from None
    except Exception as error:
        # The pickle of a damaged file can fail in any way, as can its archive: IndexError, BadZipFile, KeyError ...
        raise unsound(path, "torch", error) from error
    return _opened(path, tensors, places, rest, key or "")


def _archive(path: Path, key: str | None, limits: WeightsLimits) -> tuple[Any, Locate]:
    """What the pickle of a zip holds, and how its storages are found."""
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

    def locate(views: Iterable[View]) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for storage in {view.storage for view in views}:
            member = f"{root}/data/{storage.key}"
            if member not in members.infos:
                raise ValueError(f"storage {storage.key!r} is not in the archive")
            if storage.begins + storage.bytes > (held := members.infos[member].file_size):
                count = storage.bytes // storage.dtype.itemsize
                raise ValueError(f"storage {storage.key!r} claims {count} values, its member has {held} bytes")
            plain = members.is_plain(member)
            places[storage.key] = Place(
                members.begins(member) if plain else 0,
                order.decode() == sys.byteorder,
                None if plain else partial(members.read, member),
            )
        if all(place.unpack is None for place in places.values()):
            members.file.close()
        return places

    if key is None and f"{root}/constants.pkl" in members.infos:
        return script_views(data, limits), locate
    return Pickle(data, 0, TorchNames(), limits).load(), locate


def _stream(path: Path, limits: WeightsLimits) -> tuple[Any, Locate]:
    """The same of a file from before torch 1.6: five pickles, and each storage behind its number of values."""
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
            storage = names.storages.get(str(each))
            if storage is None or str(each) in places:
                raise ValueError(f"storage {each!r:.40} belongs to no tensor, or is there twice")
            count = storage.bytes // storage.dtype.itemsize
            if int.from_bytes(data[at : at + 8], "little") != count or at + 8 + storage.bytes > len(data):
                raise ValueError(f"storage {each!r:.40} does not have the {count} values that it claims")
            places[str(each)] = Place(at + 8, sys.byteorder == "little")
            at += 8 + storage.bytes
        if missing := sorted(names.storages.keys() - places.keys()):
            raise ValueError(f"storage {missing[0]!r:.40} is not in the file")
    return whole, lambda views: places


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

    if not all(place.plain for place in places.values()):
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
