"""Operators, subscripts and methods, each charged before it makes anything.

Traps that cost a host its memory or its hours, and are refused here: `2 ** 10**9`, `"x" * 10**12`, `1 << 10**9`,
`list(range(10**12))`, `1.5 in range(10**12)`, `"a".replace("", long)`, widths in formats, `round(5, -10**9)`, and
comparing, hashing or printing lists that hold each other twice over, which a few lines make 2**60 cells long.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from polymodal.agents.interpreter.errors import LimitError, ProgramError
from polymodal.agents.interpreter.meter import Meter
from polymodal.agents.interpreter.values import (
    BITS,
    HOLDERS,
    ITEMS,
    KEYS,
    METHODS,
    TEXT,
    Exposed,
    Function,
    HostFunction,
    size_of,
    word,
)

ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
}  # fmt: skip
COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
UNARY: Mapping[type, Callable[[Any], Any]] = {
    ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
SPEC = re.compile(r"[<>^]?[+-]?0?\d{0,3},?(\.\d{1,2})?[dfeg%s]?")
NUMBERS = (int, float, bool)
GATHERING = ("extend", "update", "union", "intersection", "difference", "issubset", "issuperset")
GROWING = ("append", "insert", "add", "setdefault")
COPYING = ("copy", "keys", "values", "items")
COMPARING = ("index", "count", "remove")


class Operations:
    """All of them on one meter."""

    def __init__(self, meter: Meter, call: Callable[..., Any]) -> None:
        self.meter, self._function = meter, call

    def ordered(self, values: Any, key: Any = None, reverse: Any = False) -> list[Any]:
        """`sorted`, whose key may be a function of the program."""
        items = self.items(values)
        self.weigh(items)
        return sorted(items, key=None if key is None else lambda item: self._function(key, item), reverse=bool(reverse))

    def binary(self, kind: type, left: Any, right: Any) -> Any:
        if isinstance(left, Exposed | HostFunction | Function) or isinstance(right, Exposed | HostFunction | Function):
            raise ProgramError(f"{word(left)} and {word(right)} cannot be calculated with")
        if kind is ast.Mod and isinstance(left, str):
            raise ProgramError("texts are formatted as f'...', not with %")
        self._charge_binary(kind, left, right)
        return self.made(ARITHMETIC[kind](left, right))

    def _charge_binary(self, kind: type, left: Any, right: Any) -> None:
        """Before it is done: how large the result will be."""
        if type(left) in NUMBERS and type(right) in NUMBERS:
            if type(left) is float or type(right) is float:
                return
            bits = 0
            if kind is ast.Pow:
                bits = max(left.bit_length(), 1) * max(right, 0)
            elif kind is ast.LShift:
                bits = left.bit_length() + max(right, 0)
            elif kind is ast.Mult:
                bits = left.bit_length() + right.bit_length()
            if bits > BITS:
                raise LimitError(f"a number of more than {BITS} bits")
        elif kind is ast.Mult:
            times, held = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(times, int) and isinstance(held, str | list | tuple):
                self.room(type(held), len(held) * max(times, 0))
        elif kind is ast.Add and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            self.room(type(left), len(left) + len(right))
        elif isinstance(left, set | dict) and isinstance(right, set | dict):
            self.room(set, len(left) + len(right))

    def room(self, kind: type, length: int) -> None:
        """Charges a value of that length; LimitError for one that is too long by itself."""
        most = TEXT if kind is str else KEYS if kind in (dict, set) else ITEMS
        if length > most:
            raise LimitError(f"a {kind.__name__} of more than {most:,} {'characters' if kind is str else 'items'}")
        self.meter.make(1 + (length // 8 if kind is str else length))

    def made(self, value: Any) -> Any:
        """A number that was calculated is a plain one; a complex one is none."""
        if type(value) is complex:
            raise ProgramError("the result is no real number")
        return value

    def compare(self, kind: type, left: Any, right: Any) -> Any:
        if kind in (ast.In, ast.NotIn):
            found = self.contains(right, left)
            return found if kind is ast.In else not found
        if kind not in (ast.Is, ast.IsNot):
            self.weigh(left)
            self.weigh(right)
        return COMPARISONS[kind](left, right)

    def contains(self, holder: Any, item: Any) -> bool:
        if type(holder) is range:
            return type(item) in (int, bool) and item in holder
        if type(holder) not in (str, *HOLDERS):
            raise ProgramError(f"nothing can be in {word(holder)}")
        self.weigh(item)
        if type(holder) in (list, tuple):
            self.weigh(holder)
        return item in holder

    def weigh(self, value: Any) -> None:
        """Charges what it takes to go through a value, as steps."""
        if type(value) in HOLDERS:
            self.meter.step(size_of(value, self.meter.limits.steps) // 8)

    def items(self, value: Any) -> list[Any]:
        """What a loop would go through, as a new list."""
        if type(value) not in (str, range, *HOLDERS):
            raise ProgramError(f"{word(value)} has no items to go through")
        self.room(list, len(value))
        return list(value)

    def iterate(self, value: Any) -> Iterator[Any]:
        """The same one by one; a range is not written out."""
        return iter(value) if type(value) is range else iter(self.items(value))

    def key(self, value: Any) -> Any:
        """A value that may be a key.  Raises ProgramError."""
        self.weigh(value)
        return value

    def subscript(self, holder: Any, index: Any) -> Any:
        if type(holder) not in (str, list, tuple, dict, range):
            raise ProgramError(f"{word(holder)} cannot be read by [...]")
        if type(index) is slice:
            for each in (index.start, index.stop, index.step):
                if each is not None and type(each) is not int:
                    raise ProgramError("the ends of [a:b] must be whole numbers")
            if type(holder) is dict:
                raise ProgramError("a dict has no slices")
            self.room(type(holder), len(range(*index.indices(len(holder)))))
        return holder[self.key(index)]

    def store(self, holder: Any, index: Any, value: Any) -> None:
        if type(holder) not in (list, dict) or type(index) is slice:
            raise ProgramError(f"{word(holder)} cannot be changed by [...]")
        if type(holder) is dict:
            self.room(dict, 1 if index in holder else len(holder) + 1) if len(holder) >= KEYS else self.meter.make(2)
        holder[self.key(index)] = value

    def format(self, value: Any, spec: str, conversion: int) -> str:
        if not SPEC.fullmatch(spec):
            raise ProgramError(f"the format {spec[:40]!r} is not allowed")
        text = self.text(value, as_code=conversion in (ord("r"), ord("a"))) if conversion != -1 or not spec else None
        if text is None:
            if type(value) not in (*NUMBERS, str):
                raise ProgramError(f"{word(value)} has no format {spec!r}")
            text = format(value, spec)
        elif spec:
            text = format(text, spec)
        self.room(str, len(text))
        return text

    def text(self, value: Any, as_code: bool = False) -> str:
        """A value written out."""
        if type(value) in HOLDERS:
            self.meter.make(size_of(value, TEXT // 4))
        found = repr(value) if as_code else str(value)
        self.room(str, len(found))
        return found

    def method(self, holder: Any, name: str) -> HostFunction:
        """A method of a text, list, dict or set.  Raises ProgramError for one that is not allowed."""
        allowed = METHODS.get(type(holder), frozenset())
        if name not in allowed:
            raise ProgramError(f"{word(holder)} has no {name!r} here; it has {', '.join(sorted(allowed)) or 'nothing'}")
        return HostFunction(f"{type(holder).__name__}.{name}", lambda *a, **k: self._call(holder, name, a, k), own=True)

    def _call(self, holder: Any, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if name == "sort":
            if given or set(named) - {"key", "reverse"}:
                raise ProgramError("sort takes key=... and reverse=... by name")
            holder[:] = self.ordered(holder, **named)
            return None
        if named:
            raise ProgramError(f"{name} takes no arguments by name here")
        for each in given:
            self.weigh(each)
        if type(holder) is str:
            return self._of_text(holder, name, given)
        if name in COMPARING:
            self.weigh(holder)
        if name in GATHERING:
            given = tuple(each if type(each) is dict else self.items(each) for each in given)
            self.room(type(holder), len(holder) + sum(map(len, given)))
        elif name in GROWING:
            self.meter.make(2)
            if len(holder) >= (KEYS if type(holder) in (dict, set) else ITEMS):
                raise LimitError(f"a {type(holder).__name__} that is too long")
        elif name in COPYING:
            self.room(list, len(holder))
        found = getattr(holder, name)(*given)  # `name` is one of METHODS
        return list(found) if name in ("keys", "values", "items") else found

    def _of_text(self, holder: str, name: str, given: tuple[Any, ...]) -> Any:
        if name == "join" and given:
            parts = self.items(given[0])
            self.room(str, sum(len(each) for each in parts if type(each) is str) + len(holder) * len(parts))
            given = (parts,)
        elif name == "replace" and len(given) > 1 and type(given[0]) is type(given[1]) is str:
            self.room(str, len(holder) + (holder.count(given[0]) + 1) * len(given[1]))
        else:
            self.room(str, len(holder))
            self.meter.make(len(holder) // 8 + 1)
        found = getattr(holder, name)(*given)  # `name` is one of METHODS
        if type(found) is list:
            self.room(list, len(found))
        return found
