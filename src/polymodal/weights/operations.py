"""Value operations of a key table: what happens to tensors between a checkpoint and a module.

An operation turns one tensor into one tensor (joins.py holds what turns n tensors into m).  Each is a frozen
dataclass that is callable and has `.inverse()`, so a whole table can be turned round for export.

Everything is written with shape-generic torch calls only, therefore it also runs on the meta device: a table
learns target shapes by pushing empty meta tensors through its operations, without reading a file.

Traps: q/k rows of llama.cpp files and of Meta's own LLaMA files are ordered for rope on neighbouring pairs
(2i, 2i+1); files in the transformers layout are ordered for halves (i, i + E/2).  The rule is per head, so
q takes the number of heads and k the number of kv heads.  `ResizePositions`, `Cast`, `Shift` and `Scale`
have inverses that restore the shape but, in general, not every bit.
"""

from __future__ import annotations

import math
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
            raise ConfigError(f"reshape: {self.source} and {self.target} hold different numbers of values")

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

    `halves` True: neighbouring pairs -> halves; False: halves -> neighbouring pairs.  With `rotary` only
    the first `rotary` rows of each head turn (GPT-NeoX, Phi); the others keep their place.
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
            raise ConfigError(f"rope order: rotary size {rotary} is not even or over {per_head.shape[1]}")
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
            raise ConfigError(f"resize positions: {self.source} and {self.target} must both be 1-D or 2-D")

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
    """Make `source` rows into `target` rows: zeros appended or last rows cut (padded vocabularies)."""

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


def to_half_split(heads: int, rotary: int | None = None) -> RopeOrder:
    """Rows for rope on neighbouring pairs -> rows for rope on halves (GGUF llama -> transformers layout)."""
    return RopeOrder(heads, halves=True, rotary=rotary)


def to_interleaved(heads: int, rotary: int | None = None) -> RopeOrder:
    """Rows for rope on halves -> rows for rope on neighbouring pairs."""
    return RopeOrder(heads, halves=False, rotary=rotary)
