"""The functions that every program has: none is Python's own, each charges what it makes."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

from polymodal.agents.interpreter.errors import LimitError, ProgramError
from polymodal.agents.interpreter.operations import NUMBERS, Operations
from polymodal.agents.interpreter.values import BITS, HOLDERS, Exposed, HostFunction, word

MATH = ("sqrt", "floor", "ceil", "hypot", "atan2", "sin", "cos", "tan", "exp", "log", "log2", "log10", "fabs", "dist",
        "degrees", "radians", "isclose", "isnan", "isinf")  # fmt: skip


class Functions:
    """On one program's operations.  call(function, *arguments) calls one of the program's own."""

    def __init__(self, operations: Operations, call: Callable[..., Any]) -> None:
        self.ops, self._function = operations, call

    def table(self) -> dict[str, HostFunction]:
        """By name."""
        items = self.ops.items
        own: dict[str, Callable[..., Any]] = {
            "len": self.length, "sorted": self.ops.ordered, "min": self.smallest, "max": self.largest,
            "sum": self.total,
            "round": self.rounded, "abs": lambda value: abs(number(value, "abs")), "int": self.whole,
            "float": lambda value=0.0: float(value if type(value) is str else number(value, "float")),
            "str": lambda value="": self.ops.text(value), "bool": lambda value=False: bool(value),
            "list": lambda values=(): items(values), "tuple": lambda values=(): tuple(items(values)),
            "set": self.unique, "dict": self.pairs, "range": lambda *ends: range(*ends), "zip": self.rows,
            "enumerate": self.counted, "reversed": lambda values: items(values)[::-1],
            "any": lambda values: any(items(values)), "all": lambda values: all(items(values)),
            "isinstance": self.instance, "print": lambda *values: None,
            "map": lambda function, values: [self._function(function, each) for each in items(values)],
            "filter": lambda function, values: [each for each in items(values) if self._function(function, each)],
        }  # fmt: skip
        return {name: HostFunction(name, each, own=True) for name, each in own.items()}

    def smallest(self, *values: Any, key: Any = None, **more: Any) -> Any:
        return self._extreme(min, values, key, more)

    def largest(self, *values: Any, key: Any = None, **more: Any) -> Any:
        return self._extreme(max, values, key, more)

    def _extreme(self, choose: Any, values: tuple[Any, ...], key: Any, more: dict[str, Any]) -> Any:
        if set(more) - {"default"}:
            raise ProgramError(f"{choose.__name__} takes no {min(more)!r}")
        items = self.ops.items(values[0]) if len(values) == 1 else list(values)
        self.ops.weigh(items)
        return choose(items, key=None if key is None else lambda item: self._function(key, item), **more)

    def total(self, values: Any, start: Any = 0) -> Any:
        for each in self.ops.items(values):
            self.ops.meter.step()
            start = self.ops.binary(ast.Add, start, each)
        return start

    def rounded(self, value: Any, digits: Any = None) -> Any:
        if digits is not None and not (type(digits) is int and -30 <= digits <= 30):
            raise ProgramError("round: expected a number of digits from -30 to 30")
        return round(number(value, "round"), digits)

    def length(self, value: Any) -> int:
        if type(value) not in (str, range, *HOLDERS):
            raise ProgramError(f"{word(value)} has no length")
        return len(value)

    def whole(self, value: Any = 0) -> int:
        found = int(value if type(value) is str else number(value, "int"))
        if found.bit_length() > BITS:
            raise LimitError(f"a number of more than {BITS} bits")
        return found

    def instance(self, value: Any, kinds: Any) -> bool:
        named = kinds if type(kinds) is tuple else (kinds,)
        names = [each.name for each in named if isinstance(each, HostFunction)]
        return type(value).__name__ in names or (type(value) is bool and "int" in names)

    def unique(self, values: Any = ()) -> set[Any]:
        items = self.ops.items(values)
        self.ops.weigh(items)
        self.ops.room(set, len(items))
        return set(items)

    def pairs(self, values: Any = ()) -> dict[Any, Any]:
        if type(values) is not dict and values != ():
            raise ProgramError("dict(...) takes a dict here; write {key: value}")
        self.ops.room(dict, len(values))
        return dict(values)

    def rows(self, *holders: Any) -> list[Any]:
        found = [tuple(row) for row in zip(*map(self.ops.items, holders), strict=False)]
        self.ops.meter.make(len(found) * len(holders))
        return found

    def counted(self, values: Any, start: Any = 0) -> list[Any]:
        items = self.ops.items(values)
        self.ops.meter.make(2 * len(items))
        return list(enumerate(items, start))


def number(value: Any, name: str) -> Any:
    if type(value) not in NUMBERS:
        raise ProgramError(f"{name}: expected a number, found {word(value)}")
    return value


class MathModule(Exposed):
    """`math`, as far as its functions take and give floats."""

    shown = frozenset((*MATH, "pi", "inf", "e"))

    def __getattr__(self, name: str) -> Any:
        found = getattr(math, name)
        return found if type(found) is float else HostFunction(name, found, own=True)
