"""What the pickles of torch describe: storages of values, and tensors that are views of them.

    storage    values of one type, somewhere in a file            Storage(key, dtype, bytes)
    tensor     offset, sizes and strides in a storage             View(storage, dtype, offset, shape, stride)

A view must lie inside its storage.  Views may overlap and repeat values (strides of 0, tied weights), as far as the
limits go: a storage of one number could stand for a tensor of any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polymodal.weights.limits import WeightsLimits, over

MAX_DIMENSIONS = 64
MAX_SIDE = 1 << 48
STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8, "QInt32Storage": torch.int32, "UntypedStorage": torch.uint8,
}  # fmt: skip
"""Names of storage types in a pickle.  Views of the quantised ones are never made."""


class Storage(NamedTuple):
    """Values of one type; begins: byte of the first one inside what goes by `key` in the file."""

    key: str
    dtype: torch.dtype
    bytes: int
    begins: int = 0


class View(NamedTuple):
    """A tensor that has not been read."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def begins(self) -> int:
        """The byte of its first value inside what goes by the storage's key."""
        return self.storage.begins + self.offset * self.dtype.itemsize

    @property
    def extent(self) -> int:
        """Values of the storage from its first to its last."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) if self.bytes else 0

    @property
    def contiguous(self) -> bool:
        expected = 1
        for n, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and step != expected:
                return not self.bytes
            expected *= n
        return True

    def strided(self, values: Tensor) -> Tensor:
        """The tensor itself, of the `extent` values from its first one on [extent]."""
        return values.as_strided(self.shape, self.stride)


def stored(pid: Any) -> Storage:
    """The storage of a persistent id of torch.  Raises ValueError for anything else."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise ValueError("it refers to something that is not a storage")
    _, dtype, key, _, count = pid[:5]
    part = pid[5] if len(pid) == 6 else None  # of files before torch 0.4: a storage that is a part of another
    numbers = [count, *(part[1:] if type(part) is tuple and len(part) == 3 else ())]
    if not isinstance(dtype, torch.dtype) or type(key) not in (str, int) or any(map(_unfit, numbers)):
        raise ValueError("it refers to something that is not a storage")
    size = dtype.itemsize
    if len(numbers) == 1:
        return Storage(str(key), dtype, count * size)
    _, offset, length = numbers
    if offset + length > count:
        raise ValueError(f"a part of storage {key!r} reaches value {offset + length} of {count}")
    return Storage(str(key), dtype, length * size, offset * size)


def view(storage: Any, offset: Any, shape: Any, stride: Any, dtype: torch.dtype | None = None) -> View:
    """dtype: where it is not that of the storage.  Raises ValueError for what does not lie inside the storage."""
    if not isinstance(storage, Storage) or type(shape) not in (tuple, list) or type(stride) not in (tuple, list):
        raise ValueError("a tensor has no storage, or sizes that are no list")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("a tensor's sizes and strides do not agree")
    if any(map(_unfit, (offset, *shape, *stride))):
        raise ValueError("a tensor has a size, a stride or an offset that is negative or no whole number")
    made = View(storage, dtype or storage.dtype, offset, tuple(shape), tuple(stride))
    held = storage.bytes // made.dtype.itemsize
    if made.bytes and offset + made.extent > held:
        raise ValueError(f"a tensor reaches value {offset + made.extent - 1} of a storage of {held}")
    return made


def _unfit(number: Any) -> bool:
    return type(number) is not int or not 0 <= number < MAX_SIDE


def check_sizes(views: Iterable[View], size: int, limits: WeightsLimits) -> None:
    """Raises OverLimit for tensors that are too many, or hold too much more than the file of `size` bytes does."""
    count = total = repeated = 0
    for each in views:
        count, total = count + 1, total + max(each.bytes, each.extent * each.dtype.itemsize)
        repeated += max(0, each.bytes - each.storage.bytes)
    if count > limits.tensors:
        raise over("tensors", "it has more tensors", limits.tensors)
    if repeated > limits.repeated:
        raise over("repeated", "a tensor repeats the values of a smaller storage; such tensors have more bytes",
                   limits.repeated)  # fmt: skip
    if total > limits.bytes_of(size):
        raise over("bytes", f"its tensors hold {total:,} bytes in all, the file {size:,}, which is more",
                   limits.bytes_of(size))  # fmt: skip
