"""Value operations of a key table: what happens to tensors between a checkpoint and a module.

An operation turns one tensor into one tensor (joins.py holds what turns n tensors into m).  Each is a frozen
dataclass that is callable and has `.inverse()`, so a whole table can be turned round for export.

`.shape(shape)` is the shape it turns another shape into, by arithmetic alone, and raises ConfigError for one that it
does not take: a table is checked against a model that way, without a tensor.

Traps: q/k rows of llama.cpp files and of Meta's own LLaMA files are ordered for rope on neighbouring pairs
(2i, 2i+1); files in the transformers layout are ordered for halves (i, i + E/2).  The rule is per head, so
q takes the number of heads and k the number of kv heads.  `ResizePositions`, `Cast`, `Shift` and `Scale`
have inverses that restore the shape but, in general, not every bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.weights.tensors import Shape


class Operation(Protocol):
    """One tensor in, one tensor out."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def shape(self, shape: Shape) -> Shape: ...

    def inverse(self) -> Operation: ...


@dataclass(frozen=True)
class Transpose:
    """Swap two dimensions (default the last two), e.g. GPT-2's Conv1D weights."""

    first: int = -2
    second: int = -1

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        return x.transpose(self.first, self.second)

    def shape(self, shape: Shape) -> Shape:
        if not all(-len(shape) <= dim < len(shape) for dim in (self.first, self.second)):
            raise ConfigError(f"transpose: shape {shape} has no dimensions {self.first} and {self.second}")
        turned = list(shape)
        turned[self.first], turned[self.second] = turned[self.second], turned[self.first]
        return tuple(turned)

    def inverse(self) -> Transpose:
        return self


@dataclass(frozen=True)
class Reshape:
    """View `source` shape as `target` shape; both are written so that the way back is known."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    def __post_init__(self) -> None:
        if math.prod(self.source) != math.prod(self.target):
            raise ConfigError(f"reshape: {self.source} and {self.target} hold different numbers of values")

    def __call__(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape(tuple(x.shape)))

    def shape(self, shape: Shape) -> Shape:
        if shape != self.source:
            raise ConfigError(f"reshape: expected shape {self.source}, found {shape}")
        return self.target

    def inverse(self) -> Reshape:
        return Reshape(self.target, self.source)


@dataclass(frozen=True)
class Squeeze:
    """Remove the dimension `dim`, which must have size 1."""

    dim: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        return x.squeeze(self.dim)

    def shape(self, shape: Shape) -> Shape:
        if len(shape) <= self.dim or shape[self.dim] != 1:
            raise ConfigError(f"squeeze: dimension {self.dim} of shape {shape} is not of size 1")
        return shape[: self.dim] + shape[self.dim + 1 :]

    def inverse(self) -> Unsqueeze:
        return Unsqueeze(self.dim)


@dataclass(frozen=True)
class Unsqueeze:
    """Insert a dimension of size 1 at `dim`."""

    dim: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        return x.unsqueeze(self.dim)

    def shape(self, shape: Shape) -> Shape:
        if len(shape) < self.dim:
            raise ConfigError(f"unsqueeze: shape {shape} has no dimension {self.dim}")
        return (*shape[: self.dim], 1, *shape[self.dim :])

    def inverse(self) -> Squeeze:
        return Squeeze(self.dim)


@dataclass(frozen=True)
class RopeOrder:
    """Reorder the rows of a q or k projection (weight [H*E, D] or bias [H*E]) between the two rope layouts.

    `halves` True: neighbouring pairs -> halves; False: halves -> neighbouring pairs.  With `rotary` only
    the first `rotary` rows of each head turn (GPT-NeoX, Phi); the others stay where they are.
    """

    heads: int
    halves: bool
    rotary: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        per_head = x.reshape(self.heads, x.shape[0] // self.heads, *x.shape[1:])
        rotary = per_head.shape[1] if self.rotary is None else self.rotary
        turned, rest = per_head[:, :rotary], per_head[:, rotary:]
        pair = (rotary // 2, 2) if self.halves else (2, rotary // 2)
        turned = turned.reshape(self.heads, *pair, *x.shape[1:]).transpose(1, 2).reshape(turned.shape)
        return torch.cat((turned, rest), dim=1).reshape(x.shape)

    def shape(self, shape: Shape) -> Shape:
        if not shape or shape[0] % self.heads:
            raise ConfigError(f"rope order: {shape[:1]} rows do not divide into {self.heads} heads")
        size = shape[0] // self.heads
        rotary = size if self.rotary is None else self.rotary
        if rotary % 2 or rotary > size:
            raise ConfigError(f"rope order: rotary size {rotary} is not even or over {size}")
        return shape

    def inverse(self) -> RopeOrder:
        return RopeOrder(self.heads, not self.halves, self.rotary)


@dataclass(frozen=True)
class AxisOrder:
    """Reorder the rows of a q or k projection (weight [H*E, D] or bias [H*E]) between two layouts of rope on two axes.

    `halves` True: axis by axis, each with its own halves (ChatGLM rotates E/2 dims by each axis) -> halves of the whole
    head, in which the first half of the frequencies belongs to the first axis.  False: back; it is the same exchange.
    """

    heads: int
    halves: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        quarters = x.reshape(self.heads, 2, 2, x.shape[0] // self.heads // 4, *x.shape[1:])
        return quarters.transpose(1, 2).reshape(x.shape)

    def shape(self, shape: Shape) -> Shape:
        if not shape or shape[0] % (4 * self.heads):
            raise ConfigError(f"axis order: {shape[:1]} rows do not divide into {self.heads} heads of four quarters")
        return shape

    def inverse(self) -> AxisOrder:
        return AxisOrder(self.heads, not self.halves)


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
            raise ConfigError(f"resize positions: {self.source} and {self.target} must both be 1-D or 2-D")

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        if self.source == self.target:
            return x
        width, outer = x.shape[-1], x.shape[:-2]
        rows = x.reshape(-1, x.shape[-2], width)
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

    def shape(self, shape: Shape) -> Shape:
        expected = self.leading + math.prod(self.source)
        if len(shape) < 2 or shape[-2] != expected:
            raise ConfigError(
                f"resize positions: expected {expected} rows (leading {self.leading} + grid {self.source}), "
                f"found shape {shape}"
            )
        return (*shape[:-2], self.leading + math.prod(self.target), shape[-1])

    def inverse(self) -> NearestPositions:
        return NearestPositions(self)


@dataclass(frozen=True)
class NearestPositions:
    """The table whose resized form is nearest to the given one (least squares; of several the shortest).

    Exact where the resized grid has no more rows and columns than the table; else a table can hold only a part of what
    the larger grid may have learned.
    """

    resize: ResizePositions

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        resize = self.resize
        if resize.source == resize.target:
            return x
        count = math.prod(resize.source)
        unit = replace(resize, leading=0)(torch.eye(count, device=x.device))  # resizing is linear: its matrix
        kept, grid = x[..., : resize.leading, :], x[..., resize.leading :, :]
        # Resized positions are sums of float32; their matrix has small singular values that are no more than rounding.
        table = torch.linalg.pinv(unit.double(), rtol=1e-6) @ grid.double()
        return torch.cat((kept, table.to(x.dtype)), dim=-2)

    def shape(self, shape: Shape) -> Shape:
        return ResizePositions(self.resize.target, self.resize.source, self.resize.leading).shape(shape)

    def inverse(self) -> ResizePositions:
        return self.resize


@dataclass(frozen=True)
class ResizeRows:
    """Make `source` rows into `target` rows: zeros appended or last rows cut (padded vocabularies)."""

    source: int
    target: int

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape))
        if self.target <= self.source:
            return x[: self.target]
        return torch.cat((x, x.new_zeros(self.target - self.source, *x.shape[1:])))

    def shape(self, shape: Shape) -> Shape:
        if shape[:1] != (self.source,):
            raise ConfigError(f"resize rows: expected {self.source} rows, found shape {shape}")
        return (self.target, *shape[1:])

    def inverse(self) -> ResizeRows:
        return ResizeRows(self.target, self.source)


@dataclass(frozen=True)
class Cast:
    """Change the dtype; the source dtype is written so that export can go back to it."""

    source: torch.dtype
    target: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return x.to(self.target)

    def shape(self, shape: Shape) -> Shape:
        return shape

    def inverse(self) -> Cast:
        return Cast(self.target, self.source)


@dataclass(frozen=True)
class Shift:
    """Add a constant, e.g. -1 for Gemma norm weights that a file stores as 1 + w."""

    amount: float

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.amount

    def shape(self, shape: Shape) -> Shape:
        return shape

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

    def shape(self, shape: Shape) -> Shape:
        return shape

    def inverse(self) -> Scale:
        return Scale(1 / self.factor)


def to_half_split(heads: int, rotary: int | None = None) -> RopeOrder:
    """Rows for rope on neighbouring pairs -> rows for rope on halves (GGUF llama -> transformers layout)."""
    return RopeOrder(heads, halves=True, rotary=rotary)


def to_interleaved(heads: int, rotary: int | None = None) -> RopeOrder:
    """Rows for rope on halves -> rows for rope on neighbouring pairs."""
    return RopeOrder(heads, halves=False, rotary=rotary)
