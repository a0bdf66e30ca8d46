"""What a processor counts and collates, as objects that can be pickled: other processes (the workers of a DataLoader)
are given the whole processor, and a function inside another cannot be sent to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError


@dataclass(frozen=True)
class SameCount:
    """As many tokens for every item."""

    count: int

    def __call__(self, values: Any) -> int:
        return self.count


@dataclass(frozen=True)
class CellCount:
    """One token for each cell of `factor` pixels a side.  values [3, H, W]."""

    factor: int

    def __call__(self, values: Tensor) -> int:
        return (values.shape[1] // self.factor) * (values.shape[2] // self.factor)


@dataclass(frozen=True)
class SizeCount:
    """What `rule(height, width)` says of the item's "size"."""

    rule: Callable[[int, int], int]

    def __call__(self, values: Mapping[str, Tensor]) -> int:
        return self.rule(*values["size"].tolist())


@dataclass(frozen=True)
class StackedAs:
    """All items as one tensor [N, ...] of that name."""

    name: str

    def __call__(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        return {self.name: torch.stack(list(items))}


@dataclass(frozen=True)
class SentenceIds:
    """Sentence -> first, its ids, last: at most `limit` of them."""

    tokenizer: Tokenizer
    first: int
    last: int
    limit: int

    def __call__(self, text: str) -> list[int]:
        return [self.first, *self.tokenizer.encode(text)[: self.limit - 2], self.last]


def check_picklable(processor: Any) -> None:
    """Raises ConfigError for a processor that holds a function which no other process could find by its name."""
    for where, value in _functions("processor", vars(processor)):
        if "<" in value.__qualname__:  # <lambda>, or <locals> of another function
            raise ConfigError(
                f"{where} is {value.__module__}.{value.__qualname__}, which cannot be pickled; write it as a function "
                "of a module, or an object of a class, with functools.partial for what it needs"
            )


def _functions(where: str, value: Any) -> Iterator[tuple[str, FunctionType]]:
    """The plain functions among the values of tables and fields, with where they stand."""
    if isinstance(value, FunctionType):
        yield where, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _functions(f"{where}.{name}", inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _functions(f"{where}.{each.name}", getattr(value, each.name))
