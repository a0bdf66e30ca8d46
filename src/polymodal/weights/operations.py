"""Value operations of a key table: what happens to tensors between a checkpoint and a module.

Two kinds.  An *operation* turns one tensor into one tensor (`transpose`, `to_half_split`, `resize_positions` ...).
A *join* turns n tensors into m (`Fuse`, `Split`, `Stack`, `Unstack`, `Copy`, `Same`).  Each is a frozen dataclass
that is callable and has `.inverse()`, so a whole table can be turned round for export.

Everything is written with shape-generic torch calls only, therefore it also runs on the meta device: a table
learns target shapes by pushing empty meta tensors through its operations, without reading a file.

Traps: q/k rows of llama.cpp files and of Meta's own LLaMA files are ordered for rope on neighbouring pairs
(2i, 2i+1); files in the transformers layout are ordered for halves (i, i + E/2).  The rule is per head, so q takes
the number of heads and k the number of kv heads.  `resize_positions`, `cast`, `shift` and `scale` have inverses
that restore the shape but, in general, not every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.errors import ConfigError


class Operation(Protocol):
    """One tensor in, one tensor out."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def inverse(self) -> Operation: ...


class Join(Protocol):
    """n tensors in, m tensors out."""

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]: ...

    def inverse(self) -> Join: ...


@dataclass(frozen=True)
class Transpose:
    """Swap two dimensions (default the last two), e.g. GPT-2's Conv1D weights."""

    first: int = -2
    second: int = -1

    def __call__(self, x: Tensor) -> Tensor:
        return x.transpose(self.first, self.second)

    def inverse(self) -> Transpose:
        return self


@dataclass(frozen=True)
class Reshape:
    """View `source` shape as `target` shape; both are written so that the way back is known."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    def __post_init__(self) -> None:
        if math.prod(self.source) != math.prod(self.target):
            raise ConfigError(f"reshape: {self.source} and {self.target} do not hold the same number of values")

    def __call__(self, x: Tensor) -> Tensor:
        if tuple(x.shape) != self.source:
            raise ConfigError(f"reshape: expected shape {self.source}, found {tuple(x.shape)}")
        return x.reshape(self.target)

    def inverse(self) -> Reshape:
        return Reshape(self.target, self.source)


@dataclass(frozen=True)
class Squeeze:
    """Remove the dimension `dim`, which must have size 1."""

    dim: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() <= self.dim or x.shape[self.dim] != 1:
            raise ConfigError(f"squeeze: dimension {self.dim} of shape {tuple(x.shape)} is not of size 1")
        return x.squeeze(self.dim)

    def inverse(self) -> Unsqueeze:
        return Unsqueeze(self.dim)


@dataclass(frozen=True)
class Unsqueeze:
    """Insert a dimension of size 1 at `dim`."""

    dim: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        return x.unsqueeze(self.dim)

    def inverse(self) -> Squeeze:
        return Squeeze(self.dim)


@dataclass(frozen=True)
class RopeOrder:
    """Reorder the rows of a q or k projection (weight [H*E, D] or bias [H*E]) between the two rope layouts.

    `halves` True: neighbouring pairs -> halves; False: halves -> neighbouring pairs.  With `rotary` only the first
    `rotary` rows of each head turn (GPT-NeoX, Phi); the others keep their place.
    """

    heads: int
    halves: bool
    rotary: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] % self.heads:
            raise ConfigError(f"rope order: {x.shape[0]} rows do not divide into {self.heads} heads")
        per_head = x.reshape(self.heads, x.shape[0] // self.heads, *x.shape[1:])
        rotary = per_head.shape[1] if self.rotary is None else self.rotary
        if rotary % 2 or rotary > per_head.shape[1]:
            raise ConfigError(f"rope order: rotary size {rotary} must be even and at most {per_head.shape[1]}")
        turned, rest = per_head[:, :rotary], per_head[:, rotary:]
        pair = (rotary // 2, 2) if self.halves else (2, rotary // 2)
        turned = turned.reshape(self.heads, *pair, *x.shape[1:]).transpose(1, 2).reshape(turned.shape)
        return torch.cat((turned, rest), dim=1).reshape(x.shape)

    def inverse(self) -> RopeOrder:
        return RopeOrder(self.heads, not self.halves, self.rotary)


@dataclass(frozen=True)
class ResizePositions:
    """Interpolate a table of learned positions [..., leading + prod(source), D] to another grid.

    `leading` rows (class token, registers) are kept.  One-dimensional grids are interpolated linearly, two-
    dimensional ones bicubically in float32; equal grids are returned untouched.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    leading: int = 0
    antialias: bool = False

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target) or len(self.source) not in (1, 2):
            raise ConfigError(f"resize positions: grids {self.source} and {self.target} must both be 1-D or 2-D")

    def __call__(self, x: Tensor) -> Tensor:
        expected = self.leading + math.prod(self.source)
        if x.dim() < 2 or x.shape[-2] != expected:
            raise ConfigError(
                f"resize positions: expected {expected} rows (leading {self.leading} + grid {self.source}), "
                f"found shape {tuple(x.shape)}"
            )
        if self.source == self.target:
            return x
        width, outer = x.shape[-1], x.shape[:-2]
        rows = x.reshape(-1, expected, width)
        kept, grid = rows[:, : self.leading], rows[:, self.leading :]
        planes = grid.float().transpose(1, 2).reshape(-1, width, *self.source)
        if len(self.source) == 1:
            planes = F.interpolate(planes, size=self.target, mode="linear", align_corners=False)
        else:
            planes = F.interpolate(
                planes, size=self.target, mode="bicubic", align_corners=False, antialias=self.antialias
            )
        grid = planes.flatten(2).transpose(1, 2).to(x.dtype)
        return torch.cat((kept, grid), dim=1).reshape(*outer, -1, width)

    def inverse(self) -> ResizePositions:
        return ResizePositions(self.target, self.source, self.leading, self.antialias)


@dataclass(frozen=True)
class ResizeRows:
    """Make `source` rows into `target` rows: zeros are appended or the last rows cut (padded vocabularies)."""

    source: int
    target: int

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] != self.source:
            raise ConfigError(f"resize rows: expected {self.source} rows, found {x.shape[0]}")
        if self.target <= self.source:
            return x[: self.target]
        return torch.cat((x, x.new_zeros(self.target - self.source, *x.shape[1:])))

    def inverse(self) -> ResizeRows:
        return ResizeRows(self.target, self.source)


@dataclass(frozen=True)
class Cast:
    """Change the dtype; the source dtype is written so that export can go back to it."""

    source: torch.dtype
    target: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return x.to(self.target)

    def inverse(self) -> Cast:
        return Cast(self.target, self.source)


@dataclass(frozen=True)
class Shift:
    """Add a constant, e.g. -1 for Gemma norm weights that a file stores as 1 + w."""

    amount: float

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.amount

    def inverse(self) -> Shift:
        return Shift(-self.amount)


@dataclass(frozen=True)
class Scale:
    """Multiply by a constant (not zero)."""

    factor: float

    def __post_init__(self) -> None:
        if self.factor == 0:
            raise ConfigError("scale: the factor must not be zero, the way back would be lost")

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.factor

    def inverse(self) -> Scale:
        return Scale(1 / self.factor)


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
            raise ConfigError(f"split: parts {sizes} do not add up to the length {length} of dimension {self.dim}")
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


def to_half_split(heads: int, rotary: int | None = None) -> RopeOrder:
    """Rows for rope on neighbouring pairs -> rows for rope on halves (GGUF llama -> transformers layout)."""
    return RopeOrder(heads, halves=True, rotary=rotary)


def to_interleaved(heads: int, rotary: int | None = None) -> RopeOrder:
    """Rows for rope on halves -> rows for rope on neighbouring pairs."""
    return RopeOrder(heads, halves=False, rotary=rotary)
