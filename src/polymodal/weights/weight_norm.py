"""Weight normalisation (arXiv 1602.07868) folded when a file is read: a length and a direction become the plain weight.

    weight_g [1, .., n, .., 1], weight_v [..] -> weight = weight_g * weight_v / |weight_v|   norms over all dims but one

On the way back the direction is the weight itself and the length its norm, which give the same weight again.
Trap: torch normalises over all dimensions but the first unless it is told another (`dim=2` for HuBERT's positions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.weights.rows import Row
from polymodal.weights.tensors import Shape

NAMES = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
"""What files call length and direction: torch's older way, and its newer."""


def lengths(x: Tensor, dim: int) -> Tensor:
    """The norm over all dimensions but `dim`, which are kept as 1."""
    return x.norm(dim=[each for each in range(x.dim()) if each != dim], keepdim=True)


@dataclass(frozen=True)
class Fold:
    """Length and direction -> the weight."""

    dim: int = 0

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        length, direction = parts
        self.shapes([tuple(length.shape), tuple(direction.shape)])
        return [direction * (length / lengths(direction, self.dim))]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        length, direction = shapes
        wanted = tuple(size if place == self.dim else 1 for place, size in enumerate(direction))
        if tuple(length) != wanted:
            raise ConfigError(f"weight norm: expected lengths of shape {wanted} for {tuple(direction)}, found {length}")
        return [direction]

    def views(self, targets: Sequence[Tensor]) -> None:
        return None

    def inverse(self) -> Unfold:
        return Unfold(self.dim)


@dataclass(frozen=True)
class Unfold:
    """The inverse of `Fold`."""

    dim: int = 0

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        (weight,) = parts
        return [lengths(weight, self.dim), weight]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        (weight,) = shapes
        return [tuple(size if place == self.dim else 1 for place, size in enumerate(weight)), weight]

    def views(self, targets: Sequence[Tensor]) -> None:
        return None

    def inverse(self) -> Fold:
        return Fold(self.dim)


def folded(source: str, target: str, names: tuple[str, str] = NAMES[0], dim: int = 0) -> Row:
    """`<source>.weight_g`, `<source>.weight_v` -> `<target>.weight`."""
    return Row(tuple(f"{source}.{name}" for name in names), (f"{target}.weight",), Fold(dim))
