"""Joins of a key table: several source tensors into one target, one into several, and the way back.

Each is a frozen dataclass, callable on a list of tensors, with `.inverse()`; like the operations they run
on the meta device.

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


class Join(Protocol):
    """n tensors in, m tensors out."""

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]: ...

    def inverse(self) -> Join: ...


@dataclass(frozen=True)
class Same:
    """One tensor stays one tensor."""

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return list(parts)

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
        found = tuple(part.shape[self.dim] for part in parts)
        expected = (found[0],) * self.count if self.sizes is None else self.sizes
        if found != expected:
            raise ConfigError(f"fuse: expected lengths {expected} along dimension {self.dim}, found {found}")
        grouped = [_group(part, self.dim, self.groups) for part in parts]
        return [torch.cat(grouped, dim=self.dim + 1).flatten(self.dim, self.dim + 1)]

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
        length = whole.shape[self.dim]
        sizes = self.sizes or (length // self.count,) * self.count
        if sum(sizes) != length:
            raise ConfigError(f"split: parts {sizes} do not add up to length {length} of dimension {self.dim}")
        if any(size % self.groups for size in sizes):
            raise ConfigError(f"split: parts {sizes} do not divide into {self.groups} groups")
        grouped = _group(whole, self.dim, self.groups)
        pieces = grouped.split([size // self.groups for size in sizes], dim=self.dim + 1)
        return [piece.flatten(self.dim, self.dim + 1) for piece in pieces]

    def inverse(self) -> Fuse:
        return Fuse(self.count, self.sizes, self.dim, self.groups)


@dataclass(frozen=True)
class Stack:
    """Stack tensors of one shape along a new first dimension (experts of a mixture)."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) != 1:
            raise ConfigError(f"stack: the parts have different shapes {sorted(shapes)}")
        return [torch.stack(list(parts))]

    def inverse(self) -> Unstack:
        return Unstack(self.count)


@dataclass(frozen=True)
class Unstack:
    """Cut along the first dimension into `count` tensors; the inverse of `Stack`."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        (whole,) = parts
        if whole.dim() == 0 or whole.shape[0] != self.count:
            raise ConfigError(f"unstack: expected {self.count} entries, found shape {tuple(whole.shape)}")
        return list(whole.unbind(0))

    def inverse(self) -> Stack:
        return Stack(self.count)


@dataclass(frozen=True)
class Copy:
    """Fill `count` targets with one source (routed branches that start as copies of the text weights)."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return list(parts) * self.count

    def inverse(self) -> Agree:
        return Agree(self.count)


@dataclass(frozen=True)
class Agree:
    """The inverse of `Copy`: all parts must still be equal."""

    count: int

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        first = parts[0]
        for part in parts[1:]:
            if part.shape != first.shape or (not first.is_meta and not torch.equal(part, first)):
                raise ConfigError("copies of one source have become different, the way back needs them equal")
        return [first]

    def inverse(self) -> Copy:
        return Copy(self.count)


def _group(x: Tensor, dim: int, groups: int) -> Tensor:
    """[..., n, ...] -> [..., groups, n / groups, ...]."""
    if x.shape[dim] % groups:
        raise ConfigError(f"length {x.shape[dim]} of dimension {dim} does not divide into {groups} groups")
    return x.unflatten(dim, (groups, x.shape[dim] // groups))
