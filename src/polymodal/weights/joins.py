"""Joins of a key table: several source tensors into one target, one into several, and the way back.

Each is a frozen dataclass, callable on a list of tensors, with `.inverse()` and, like the operations, `.shapes(shapes)`
by arithmetic alone.  `.views(targets)` are the slices of the targets that the sources fill unchanged, one for each
source, so that they can be read straight into them; None where the join has none.

Traps: fused attention weights come in two orders.  Plain [q; k; v] is `Fuse` with groups 1; GPT-NeoX keeps
q, k, v of each head together (groups = heads), InternLM2 those of each kv head (groups = kv heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.weights.tensors import Shape


class Join(Protocol):
    """n tensors in, m tensors out."""

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]: ...

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]: ...

    def views(self, targets: Sequence[Tensor]) -> list[Tensor] | None: ...

    def inverse(self) -> Join: ...


@dataclass(frozen=True)
class Same:
    """One tensor stays one tensor."""

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return list(parts)

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return list(shapes)

    def views(self, targets: Sequence[Tensor]) -> list[Tensor]:
        return list(targets)

    def inverse(self) -> Same:
        return self


@dataclass(frozen=True)
class Fuse:
    """Concatenate `count` tensors along `dim`.

    `sizes` are their lengths along `dim` (equal when None).  `groups` interleaves: every part is viewed as
    [groups, length / groups] and the parts lie next to each other inside each group - groups = heads gives
    GPT-NeoX's query_key_value, groups = kv heads gives InternLM2's wqkv, 1 the plain [q; k; v].
    """

    count: int
    sizes: tuple[int, ...] | None = None
    dim: int = 0
    groups: int = 1

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        self.shapes([tuple(part.shape) for part in parts])
        grouped = [_group(part, self.dim, self.groups) for part in parts]
        return [torch.cat(grouped, dim=self.dim + 1).flatten(self.dim, self.dim + 1)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        found = tuple(_length(shape, self.dim, "fuse") for shape in shapes)
        expected = (found[0],) * self.count if self.sizes is None else self.sizes
        if found != expected:
            raise ConfigError(f"fuse: expected lengths {expected} along dimension {self.dim}, found {found}")
        for length in found:
            _require_groups(length, self.dim, self.groups)
        if len({_other(shape, self.dim) for shape in shapes}) != 1:
            raise ConfigError(f"fuse: the parts have different shapes {sorted(set(shapes))}")
        first = shapes[0]
        return [(*first[: self.dim], sum(found), *first[self.dim + 1 :])]

    def views(self, targets: Sequence[Tensor]) -> list[Tensor] | None:
        if self.groups != 1 or self.dim != 0:
            return None  # one source is not contiguous in the target
        (whole,) = targets
        return list(whole.split(list(self.sizes or (len(whole) // self.count,) * self.count)))

    def inverse(self) -> Split:
        return Split(self.count, self.sizes, self.dim, self.groups)


@dataclass(frozen=True)
class Split:
    """Cut one tensor into `count` along `dim`; the inverse of `Fuse` with the same fields."""

    count: int
    sizes: tuple[int, ...] | None = None
    dim: int = 0
    groups: int = 1

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        (whole,) = parts
        sizes = [shape[self.dim] for shape in self.shapes([tuple(whole.shape)])]
        grouped = _group(whole, self.dim, self.groups)
        pieces = grouped.split([size // self.groups for size in sizes], dim=self.dim + 1)
        return [piece.flatten(self.dim, self.dim + 1) for piece in pieces]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        (whole,) = shapes
        length = _length(whole, self.dim, "split")
        sizes = self.sizes or (length // self.count,) * self.count
        if sum(sizes) != length:
            raise ConfigError(f"split: parts {sizes} do not add up to length {length} of dimension {self.dim}")
        if any(size % self.groups for size in sizes):
            raise ConfigError(f"split: parts {sizes} do not divide into {self.groups} groups")
        return [(*whole[: self.dim], size, *whole[self.dim + 1 :]) for size in sizes]

    def views(self, targets: Sequence[Tensor]) -> None:
        return None

    def inverse(self) -> Fuse:
        return Fuse(self.count, self.sizes, self.dim, self.groups)


@dataclass(frozen=True)
class Stack:
    """Stack tensors of one shape along a new first dimension (experts of a mixture)."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        self.shapes([tuple(part.shape) for part in parts])
        return [torch.stack(list(parts))]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(set(shapes)) != 1:
            raise ConfigError(f"stack: the parts have different shapes {sorted(set(shapes))}")
        return [(len(shapes), *shapes[0])]

    def views(self, targets: Sequence[Tensor]) -> list[Tensor]:
        (whole,) = targets
        return list(whole.unbind(0))

    def inverse(self) -> Unstack:
        return Unstack(self.count)


@dataclass(frozen=True)
class Unstack:
    """Cut along the first dimension into `count` tensors; the inverse of `Stack`."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        (whole,) = parts
        self.shapes([tuple(whole.shape)])
        return list(whole.unbind(0))

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        (whole,) = shapes
        if whole[:1] != (self.count,):
            raise ConfigError(f"unstack: expected {self.count} entries, found shape {whole}")
        return [whole[1:]] * self.count

    def views(self, targets: Sequence[Tensor]) -> None:
        return None

    def inverse(self) -> Stack:
        return Stack(self.count)


@dataclass(frozen=True)
class Copy:
    """Fill `count` targets with one source (routed branches that start as copies of the text weights)."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return list(parts) * self.count

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return list(shapes) * self.count

    def views(self, targets: Sequence[Tensor]) -> None:
        return None

    def inverse(self) -> Agree:
        return Agree(self.count)


@dataclass(frozen=True)
class Agree:
    """The inverse of `Copy`: all parts must still be equal."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        first = parts[0]
        if not all(torch.equal(part, first) for part in parts[1:]):
            raise ConfigError("copies of one source have become different, the way back needs them equal")
        return [first]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(set(shapes)) != 1:
            raise ConfigError(f"copies of one source have different shapes {sorted(set(shapes))}")
        return [shapes[0]]

    def views(self, targets: Sequence[Tensor]) -> None:
        return None

    def inverse(self) -> Copy:
        return Copy(self.count)


def _group(x: Tensor, dim: int, groups: int) -> Tensor:
    """[..., n, ...] -> [..., groups, n / groups, ...]."""
    _require_groups(x.shape[dim], dim, groups)
    return x.unflatten(dim, (groups, x.shape[dim] // groups))


def _require_groups(length: int, dim: int, groups: int) -> None:
    if length % groups:
        raise ConfigError(f"length {length} of dimension {dim} does not divide into {groups} groups")


def _length(shape: Shape, dim: int, what: str) -> int:
    if not 0 <= dim < len(shape):
        raise ConfigError(f"{what}: shape {shape} has no dimension {dim}")
    return shape[dim]


def _other(shape: Shape, dim: int) -> Shape:
    """A shape without one dimension."""
    return (*shape[:dim], *shape[dim + 1 :])
