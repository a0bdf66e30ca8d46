"""Tensors that are computed from those of a file when they are asked for, one at a time.

    DerivedTensors(file, {"a.weight": Derivation(...)}, kept=("a.bias",))   names, shapes and types known, nothing read
    converted(file, table)      the names that a key table gives to the tensors of a file, without a module

This is how a file of another format (llama.cpp's names, packed numbers) is read through the key tables of the
published format: to them it looks like a file in that format.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights.keytable import KeyTable, Row
from polymodal.weights.tensors import TensorInfo, copy_into, dtype_of, first_line, map_tensor, read_into, shape_of

# What the numbers of llama.cpp's types are computed in; blocks of few bits in float16.
_COMPUTED = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """One tensor: its shape, the tensors it is made of and how.

    stored: what it is stored as, for people.  dtype: what it is meant to be computed in, which a load with dtype "auto"
    follows; `compute` may give it in a wider one.
    """

    shape: tuple[int, ...]
    sources: tuple[str, ...]
    compute: Callable[[Sequence[Tensor]], Tensor]
    stored: str
    dtype: torch.dtype = torch.float16


class DerivedTensors(Mapping[str, Tensor]):
    """`derived` tensors and those `kept` as they are, lazily; what tensors.py asks for, and `infos` as a file has."""

    def __init__(
        self, source: Mapping[str, Tensor], derived: Mapping[str, Derivation], kept: Iterable[str] = ()
    ) -> None:
        self._source, self._derived, self._last = source, dict(derived), threading.local()
        self.infos: dict[str, TensorInfo] = {name: info_of(source, name) for name in kept}
        for name, each in self._derived.items():
            size = sum(info_of(source, part).bytes for part in each.sources)
            self.infos[name] = TensorInfo(each.shape, each.stored, size)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.infos:
            raise KeyError(name)
        found = self._derived.get(name)
        if found is None:
            return self._source[name]
        try:
            tensor = found.compute([self._source[part] for part in found.sources])
        except WeightsError:
            raise
        except Exception as problem:  # sizes of packed numbers that do not belong together fail anywhere
            why = first_line(problem)
            raise WeightsError(f"tensor {name!r} cannot be read from {found.stored}: {why}") from problem
        if tuple(tensor.shape) != found.shape:
            raise WeightsError(f"tensor {name!r} must have shape {found.shape}, its parts give {tuple(tensor.shape)}")
        return tensor

    def read_into(self, name: str, out: Tensor, first: int = 0) -> None:
        """Fill `out` with values of one tensor, see tensors.py.

        A computed tensor that is read in parts is computed once: each thread keeps its last one until the end of it.
        """
        if name not in self._derived:
            read_into(self._source, name, out, first)
            return
        held: tuple[str, Tensor] | None = getattr(self._last, "held", None)
        if held is None or held[0] != name:
            held = self._last.held = name, self[name]
        copy_into(held[1], out, first)
        if first + out.numel() >= held[1].numel():
            self._last.held = None

    def map(self, name: str) -> Tensor | None:
        """One of the tensors kept as they are in the pages of its file, where that can be."""
        return None if name in self._derived else map_tensor(self._source, name)

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor without reading it."""
        return self.infos[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of one tensor; of a computed one what it is meant for, the values themselves may be wider."""
        found = self._derived.get(name)
        return dtype_of(self._source, name) if found is None else found.dtype

    def without(self, names: Iterable[str]) -> DerivedTensors:
        """The same tensors but those."""
        gone = set(names)
        derived = {name: each for name, each in self._derived.items() if name not in gone}
        return DerivedTensors(self._source, derived, [name for name in self.infos if name not in gone | derived.keys()])


def converted(source: Mapping[str, Tensor], table: KeyTable) -> DerivedTensors:
    """The targets of `table`, each converted when it is asked for; rows must have one target each.

    Raises WeightsError for a name that the table does not know, and for shapes that do not fit its rows.
    """
    report = table.check(source.keys(), None)
    report.require()
    derived: dict[str, Derivation] = {}
    for use in report.uses:
        row, (target,) = table.rows[use.row], use.targets
        shapes = [shape_of(source, name) for name in use.sources]
        try:
            (shape,) = row.shapes(shapes)
        except ConfigError as problem:
            raise WeightsError(f"{use.sources[0]!r} {shapes[0]} does not fit its row: {problem}") from problem
        stored = info_of(source, use.sources[0]).dtype
        derived[target] = Derivation(
            shape=shape, sources=use.sources, compute=_single(row),
            stored=stored, dtype=_COMPUTED.get(stored, torch.float16),
        )  # fmt: skip
    return DerivedTensors(source, derived)


def _single(row: Row) -> Callable[[Sequence[Tensor]], Tensor]:
    return lambda parts: row.convert(parts)[0]


def info_of(source: Mapping[str, Tensor], name: str) -> TensorInfo:
    """Shape, stored type and bytes of one tensor, without reading it where the reader can tell."""
    infos = getattr(source, "infos", None)
    if infos is not None:
        return infos[name]
    shape, dtype = shape_of(source, name), dtype_of(source, name)
    return TensorInfo(shape, str(dtype).removeprefix("torch."), math.prod(shape) * dtype.itemsize)
