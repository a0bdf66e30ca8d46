"""Named tensors that are read when they are needed: what every reader gives, and what loading asks of it.

    LazyTensors     the protocol: a mapping name -> tensor that tells shapes and dtypes without reading
    TensorFile      one open file, made by the readers of read.py
    shape_of, dtype_of, read_into, map_tensor       the same questions to any mapping, a plain dict of tensors included

The protocol is small so that whoever wraps a mapping (several files as one, other names, a dequantiser) can keep it:

    tensors.shape(name) -> (4096, 4096)
    tensors.dtype(name) -> torch.bfloat16              what its numbers are stored as, or meant to be computed in;
                                                       tensors[name] may have a wider dtype
    tensors.read_into(name, out, first=0)              fills `out` with the values first, first + 1, ... in row-major
                                                       order, in out's dtype and on its device

`read_into` is how a model is filled: no second copy of a tensor is made, and a part of a tensor can be had (one row
of a matrix `[N, M]` begins at `row * M`).  It may be called from several threads at once.  A wrapper that computes
values gives `__getitem__` and leaves `read_into` to `copy_into` below.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.limits import OverLimit

Shape = tuple[int, ...]

# What safetensors, GGUF and numpy call the types that are not named as in torch.
_NAMES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip


@runtime_checkable
class Shaped(Protocol):
    """What tells the shape of a name: all that names are checked by."""

    def shape(self, name: str) -> Shape: ...


@runtime_checkable
class LazyTensors(Shaped, Protocol):
    """A mapping name -> tensor that also has these three; see the module's text."""

    def dtype(self, name: str) -> torch.dtype: ...

    def read_into(self, name: str, out: Tensor, first: int = 0) -> None: ...


@runtime_checkable
class Mappable(Protocol):
    """A mapping that can give some of its tensors as pages of a file, see raw.py."""

    def map(self, name: str) -> Tensor | None: ...


@dataclass(frozen=True)
class TensorInfo:
    """Shape, stored type (the name the format uses) and stored bytes of one tensor."""

    shape: Shape
    dtype: str
    bytes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile(Mapping[str, Tensor]):
    """An open file: tensors are read when they are asked for, and own their memory.

    load(name) reads a whole tensor; fill(name, out, first), where a format can, reads values into existing memory;
    pages(name), where a format can, gives the tensor in the pages of the file, or None.
    entry: the key under which a torch file nests its tensors.
    """

    path: Path
    format: str
    infos: Mapping[str, TensorInfo]
    load: Callable[[str], Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fill: Callable[[str, Tensor, int], None] | None = None
    pages: Callable[[str], Tensor | None] | None = None
    entry: str = ""

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.infos:
            raise KeyError(name)
        return self._reading(name, lambda: self.load(name))

    def __contains__(self, name: object) -> bool:
        return name in self.infos  # a mapping's own way would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def shape(self, name: str) -> Shape:
        """Shape of one tensor without reading it."""
        return self.infos[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype its numbers are stored as; blocks of quantised numbers are read as float32."""
        return torch_dtype(self.infos[name].dtype)

    def read_into(self, name: str, out: Tensor, first: int = 0) -> None:
        """Fill contiguous `out` with the values from `first` on.  Raises WeightsError for a damaged file."""
        if name not in self.infos:
            raise KeyError(name)
        fill = self.fill
        if fill is None:
            copy_into(self[name], out, first)
        else:
            self._reading(name, lambda: fill(name, out, first))

    def map(self, name: str) -> Tensor | None:
        """The tensor in the pages of the file, or None where the format has none.  Raises WeightsError."""
        pages = self.pages
        return None if pages is None else self._reading(name, lambda: pages(name))

    def _reading(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except WeightsError:
            raise
        except Exception as error:
            # zlib, zipfile, numpy and safetensors each have errors of their own for damaged data.
            if isinstance(error, OverLimit):
                raise WeightsError(f"{self.path}: tensor {name!r}: {error}") from error
            raise damaged(self.path, self.format, f"tensor {name!r}: {first_line(error)}") from error


def torch_dtype(stored: str) -> torch.dtype:
    """The dtype in which values of a stored type are read; types that only a dequantiser knows are read as float32."""
    found = _NAMES.get(stored) or getattr(torch, stored, None)
    return found if isinstance(found, torch.dtype) else torch.float32


def shape_of(tensors: Mapping[str, Tensor], name: str) -> Shape:
    """Shape of one tensor, without reading it when the mapping can tell."""
    return tuple(tensors.shape(name) if _tells_shapes(tensors) else tensors[name].shape)


def dtype_of(tensors: Mapping[str, Tensor], name: str) -> torch.dtype:
    """Dtype of one tensor, without reading it when the mapping can tell."""
    return tensors.dtype(name) if _is_lazy(tensors) else tensors[name].dtype


def read_into(tensors: Mapping[str, Tensor], name: str, out: Tensor, first: int = 0) -> None:
    """Fill `out` with values of one tensor from `first` on, in row-major order, in out's dtype and on its device."""
    if _is_lazy(tensors):
        tensors.read_into(name, out, first)
    else:
        copy_into(tensors[name], out, first)


def map_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    """One tensor in the pages of its file, None where it has to be read."""
    return tensors.map(name) if _is_mappable(tensors) else None


def _is_mappable(tensors: Any) -> TypeGuard[Mappable]:
    return _follows(tensors.__class__, Mappable)


def _tells_shapes(tensors: Any) -> TypeGuard[Shaped]:
    return _follows(tensors.__class__, Shaped)


def _is_lazy(tensors: Any) -> TypeGuard[LazyTensors]:
    return _follows(tensors.__class__, LazyTensors)


@functools.cache
def _follows(kind: Any, protocol: Any) -> bool:
    """Whether a class has what a protocol asks for; remembered, since looking takes longer than most answers."""
    return issubclass(kind, protocol)


def copy_into(tensor: Tensor, out: Tensor, first: int = 0) -> None:
    """`read_into` for a tensor that is in memory already."""
    if first == 0 and tensor.shape == out.shape:
        out.copy_(tensor.detach())
    else:
        out.copy_(tensor.detach().reshape(-1)[first : first + out.numel()].view(out.shape))


def damaged(path: Path, format: str, why: str) -> WeightsError:
    return WeightsError(f"{path}: not a sound {format} file: {why}; download it again")


def unsound(path: Path, format: str, error: Exception) -> WeightsError:
    """The error of one line for whatever a reader met in a file: a limit, or damage."""
    if isinstance(error, OverLimit):
        return WeightsError(f"{path}: {error}")
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return damaged(path, format, kind + first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a message of one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
