"""What programs calculate with: plain values, functions, and objects of the host that show only what they list.

A program never holds a Python function, type or module.  `HostFunction` stands for one; it has no attributes, and what
it gives back is checked.  Methods of texts, lists, dicts and sets are those of METHODS and no others: `format`, which
reads attributes, and those that make large values of small ones are left out, or charged first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polymodal.agents.interpreter.errors import LimitError, ProgramError

PLAIN = (type(None), bool, int, float, str)
HOLDERS = (list, tuple, dict, set)
BITS, TEXT, ITEMS, KEYS = 4096, 100_000, 100_000, 10_000

METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset((
        "lower", "upper", "strip", "lstrip", "rstrip", "title", "capitalize", "split", "rsplit", "splitlines", "join",
        "replace", "startswith", "endswith", "find", "rfind", "index", "count", "isdigit", "isalpha", "isalnum",
        "isnumeric", "isupper", "islower", "isspace", "partition", "rpartition", "removeprefix", "removesuffix",
        "casefold", "swapcase",
    )),
    list: frozenset((
        "append", "extend", "insert", "pop", "remove", "index", "count", "sort", "reverse", "copy", "clear",
    )),
    tuple: frozenset(("index", "count")),
    dict: frozenset(("get", "keys", "values", "items", "pop", "setdefault", "update", "copy", "clear")),
    set: frozenset((
        "add", "discard", "remove", "union", "intersection", "difference", "update", "issubset", "issuperset", "copy",
        "clear",
    )),
    int: frozenset(), float: frozenset(), bool: frozenset(), type(None): frozenset(), range: frozenset(),
}  # fmt: skip


class Exposed:
    """An object of the host.  shown: the attributes and methods that a program may use; nothing else of it is there."""

    shown: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False, repr=False)
class HostFunction:
    """A function of the host under its name.  own: one of the interpreter's, which may be given functions."""

    name: str
    call: Callable[..., Any]
    own: bool = False

    def __repr__(self) -> str:
        return f"<function {self.name}>"


@dataclass(frozen=True, eq=False, repr=False)
class Function:
    """A function or lambda of the program: its tree and the names around it."""

    name: str
    node: Any
    scope: Any

    def __repr__(self) -> str:
        return f"<function {self.name}>"


def admit(value: Any, what: str) -> Any:
    """A value from outside, as it is where a program may hold it.  Raises ProgramError for anything else."""
    waiting, seen = [value], 0
    while waiting:
        each = waiting.pop()
        seen += 1
        if seen > ITEMS:
            raise LimitError(f"{what} gave more than {ITEMS:,} values")
        if type(each) in (list, tuple, set):
            waiting += list(each)
        elif type(each) is dict:
            waiting += [*each.keys(), *each.values()]
        elif type(each) not in PLAIN and not isinstance(each, Exposed):
            raise ProgramError(f"{what} gave {type(each).__name__}, which a program cannot hold")
    return value


def size_of(value: Any, most: int) -> int:
    """How many cells a value is written out, as comparing, hashing or printing it would go through; LimitError
    above."""
    waiting, count = [value], 0
    while waiting:
        each = waiting.pop()
        kind = type(each)
        count += 1 + (len(each) // 8 if kind is str else each.bit_length() // 64 if kind is int else 0)
        if count > most:
            raise LimitError(f"a value of more than {most:,} cells")
        if kind in (list, tuple, set):
            waiting += list(each)
        elif kind is dict:
            waiting += [*each.keys(), *each.values()]
    return count


def word(value: Any) -> str:
    """The kind of a value, for messages."""
    return value.name if isinstance(value, HostFunction | Function) else type(value).__name__
