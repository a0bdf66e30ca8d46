"""Parameters as Flax writes them: msgpack of nested tables whose leaves are arrays (`flax.serialization.to_bytes`).

    {"encoder": {"layers_0": {"kernel": array}}}  <->  "encoder/layers_0/kernel" -> tensor
    an array: extension 1 of msgpack around [shape, "float32", bytes]

Only tables, their names and plain arrays are read.  An array beyond 1 GiB, which Flax cuts into a table of pieces, is
refused.  Trap: the files are called .bin as torch's are; they begin with a table, a pickle with 0x80 and a version.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import open_regular
from polymodal.weights.export import whole_file
from polymodal.weights.limits import over, weights_limits
from polymodal.weights.raw import RawFile, read_head
from polymodal.weights.stored_views import MAX_SIDE
from polymodal.weights.tensors import TensorFile, TensorInfo, damaged, torch_dtype, unsound

DEPTH = 32  # tables inside tables
_ARRAY = 1
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_PIECES = "__msgpack_chunked_array__"


def is_flax(path: Path) -> bool:
    """Whether a file begins as Flax's do: with a table of one entry or more, and a text behind it."""
    start, _ = read_head(path, 6)
    if len(start) < 2 or not (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return False
    first = {0xDE: 3, 0xDF: 5}.get(start[0], 1)
    return len(start) > first and (0xA0 <= start[first] <= 0xBF or start[first] in (0xD9, 0xDA))


def read_flax(path: str | Path) -> TensorFile:
    """Open a file of Flax; names are those of the tables with "/" between them.  Raises WeightsError."""
    path = Path(path)
    read_head(path, 1)
    with open_regular(path) as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found: dict[str, tuple[TensorInfo, int]] = {}
    try:
        reader = _Reader(data)
        for name, info, start in reader.table("", 0):
            if name in found:
                raise ValueError(f"two arrays are called {name!r:.80}")
            found[name] = info, start
            if len(found) > (most := weights_limits().tensors):
                raise ValueError(over("tensors", "it has more arrays", most))
        if reader.at != len(data):
            raise ValueError(f"{len(data) - reader.at} bytes stand behind its table")
    except (ValueError, IndexError, struct.error) as error:
        raise unsound(path, "flax", error) from error
    finally:
        data.close()
    raw = RawFile(path)

    def load(name: str) -> Tensor:
        info, start = found[name]
        return raw.read(start, torch_dtype(info.dtype), info.shape)

    def fill(name: str, out: Tensor, first: int) -> None:
        info, start = found[name]
        dtype = torch_dtype(info.dtype)
        raw.read_into(start + first * dtype.itemsize, dtype, out)

    if not found:
        raise damaged(path, "flax", "it holds no array")
    return TensorFile(path, "flax", {name: info for name, (info, _) in found.items()}, load, fill=fill)


class _Reader:
    """A walk along the bytes.  at: where it stands."""

    def __init__(self, data: mmap.mmap | bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def table(self, inside: str, depth: int) -> Iterator[tuple[str, TensorInfo, int]]:
        """Every array below a table: its name, what it is, and the byte where its values begin."""
        if depth > DEPTH:
            raise ValueError(f"its tables lie more than {DEPTH} deep")
        for _ in range(self.count(0x80, 16, {0xDE: 2, 0xDF: 4}, "a table")):
            name = self.text()
            if name == _PIECES:
                raise ValueError(f"{inside.rstrip('/')!r:.80} is an array in pieces, which is not read")
            if self.is_table():
                yield from self.table(f"{inside}{name}/", depth + 1)
            else:
                yield f"{inside}{name}", *self.array()

    def is_table(self) -> bool:
        return 0x80 <= self.data[self.at] <= 0x8F or self.data[self.at] in (0xDE, 0xDF)

    def array(self) -> tuple[TensorInfo, int]:
        """Shape, type and first byte of the array here."""
        mark = self.byte()
        sizes = {0xC7: 1, 0xC8: 2, 0xC9: 4}
        if mark not in sizes:
            raise ValueError(f"byte {self.at - 1} is no array")
        length = self.number(sizes[mark])
        if self.byte() != _ARRAY:
            raise ValueError(f"byte {self.at - 1} is no array of numbers")
        end = self.at + length
        if self.count(0x90, 16, {}, "an array's record") != 3:
            raise ValueError("an array's record has not three entries")
        shape = tuple(self.whole() for _ in range(self.count(0x90, 16, {0xDC: 2}, "a shape")))
        dtype = self.text()
        size = self.count(None, 0, {0xC4: 1, 0xC5: 2, 0xC6: 4}, "the values of an array")
        start, self.at = self.at, self.at + size
        if dtype not in _TYPES or not all(0 <= side < MAX_SIDE for side in shape):
            raise ValueError(f"an array of type {dtype!r:.40} and shape {shape} is not read")
        if self.at != end or end > len(self.data) or math.prod(shape) * torch_dtype(dtype).itemsize != size:
            raise ValueError(f"an array of shape {shape} has {size} bytes of {dtype}")
        return TensorInfo(shape, dtype, size), start

    def whole(self) -> int:
        """A whole number that is not negative."""
        mark = self.byte()
        if mark < 0x80:
            return mark
        if mark not in (0xCC, 0xCD, 0xCE, 0xCF):
            raise ValueError(f"byte {self.at - 1}: expected a whole number")
        return self.number(1 << (mark - 0xCC))

    def text(self) -> str:
        length = self.count(0xA0, 32, {0xD9: 1, 0xDA: 2}, "a name")
        if length > weights_limits().header or self.at + length > len(self.data):
            raise ValueError("a name is longer than the file")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def count(self, small: int | None, room: int, sizes: Mapping[int, int], what: str) -> int:
        """The entries or bytes that a mark announces: within the mark itself, or in so many bytes behind it."""
        mark = self.byte()
        if small is not None and small <= mark < small + room:
            return mark - small
        if mark not in sizes:
            raise ValueError(f"byte {self.at - 1}: expected {what}")
        return self.number(sizes[mark])

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")


def save_flax(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as nested tables.  Raises WeightsError for a name that is another's table, and for 4 GiB."""
    tree: dict[str, object] = {}
    for name, x in tensors.items():
        place = tree
        *tables, leaf = name.split("/")
        for each in tables:
            below = place.setdefault(each, {})
            if not isinstance(below, dict):
                raise WeightsError(f"{path}: {name!r} lies below another array")
            place = below
        if leaf in place:
            raise WeightsError(f"{path}: {name!r} is a table already")
        place[leaf] = x
    with whole_file(path) as draft, draft.open("wb") as file:
        _write_table(file, tree, path)


def _write_table(file: BinaryIO, table: Mapping[str, object], path: Path) -> None:
    file.write(b"\xdf" + struct.pack(">I", len(table)))
    for name, value in table.items():
        file.write(_text(name))
        if isinstance(value, dict):
            _write_table(file, value, path)
            continue
        assert isinstance(value, Tensor)
        x = value.detach().cpu().contiguous()
        dtype = str(x.dtype).removeprefix("torch.")
        if dtype not in _TYPES or x.nbytes >= 1 << 32:
            raise WeightsError(f"{path}: {name!r} of {x.nbytes:,} bytes of {dtype} is not written as Flax's arrays")
        shape = b"".join(b"\xcf" + struct.pack(">Q", side) for side in x.shape)
        head = b"\x93\xdc" + struct.pack(">H", x.dim()) + shape + _text(dtype) + b"\xc6" + struct.pack(">I", x.nbytes)
        file.write(b"\xc9" + struct.pack(">I", len(head) + x.nbytes) + bytes([_ARRAY]) + head)
        file.write(x.reshape(-1).view(torch.uint8).numpy().tobytes())


def _text(text: str) -> bytes:
    data = text.encode()
    return b"\xda" + struct.pack(">H", len(data)) + data
