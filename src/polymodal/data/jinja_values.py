"""What a chat template may do with values: operations of known cost on text, numbers, lists and tables.

Each of them counts what it makes against the `Budget` of one run, and refuses an operand so large that one operation
alone would take long, before it is carried out.
"""

from __future__ import annotations

import json
import math
import string
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

MAX_TEXT = 1 << 18  # characters of one text; published templates are below 2 ** 15
MAX_MADE = 1 << 24  # characters and items that one run may make, finished output included
MAX_STEPS = 200_000  # loop rounds, calls and operations of one run
MAX_SECONDS = 5.0
MAX_DEPTH = 50  # calls within calls: macros, recursive loops
MAX_BITS = 4096  # of a whole number
MAX_FORMAT = 999  # width or precision in "%10s"
Number = int | float


class OutOfTime(SecurityError):
    """A run that was stopped."""


@dataclass
class Budget:
    """What is left for one run.  `step` and `made` raise SecurityError when it is used up."""

    until: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)
    steps: int = MAX_STEPS
    left: int = MAX_MADE
    depth: int = 0

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0 or time.monotonic() > self.until:
            raise OutOfTime("it runs for too long")

    def make(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise SecurityError("it makes too much text")


def check_size(length: int) -> None:
    """Raises SecurityError for a text or list that must not be made."""
    if length > MAX_TEXT:
        raise SecurityError(f"it makes a text or list of {length} characters or items; the limit is {MAX_TEXT}")


def printed_size(value: Any) -> int:
    """Characters and items of a plain value, counted as often as they would be printed.

    Raises SecurityError for more than MAX_TEXT, for lists nested deeper than MAX_DEPTH, and for a list or table that
    holds anything but plain values.
    """
    total, waiting = 0, [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        total += 1
        if isinstance(each, str):
            total += len(each)
        elif isinstance(each, int) and not isinstance(each, bool):
            total += each.bit_length() // 3
        elif isinstance(each, list | tuple | dict):
            if depth > MAX_DEPTH:
                raise SecurityError(f"it nests lists deeper than {MAX_DEPTH}")
            parts = (*each, *each.values()) if isinstance(each, dict) else each
            waiting.extend((part, depth + 1) for part in parts)
        elif not (each is None or isinstance(each, bool | float | range | Undefined)):
            raise SecurityError(f"it puts a {type(each).__name__} into a list, a table or a text")
        check_size(total + len(waiting))
    return total


def text_of(value: Any) -> str:
    """A value as it is printed."""
    if isinstance(value, str):
        return value
    printed_size(value)
    return str(value)


def concatenate(values: Iterable[Any]) -> str:
    """Values printed one behind the other."""
    texts = [text_of(value) for value in values]
    check_size(sum(map(len, texts)))
    return "".join(texts)


def add(left: Any, right: Any) -> Any:
    if not _numbers(left, right):
        for kind in (str, list, tuple):
            if isinstance(left, kind) and isinstance(right, kind):
                check_size(len(left) + len(right))
                return left + right  # type: ignore[operator]
        raise TypeError(f"cannot add {type(left).__name__} and {type(right).__name__}")
    return _bounded(left + right)


def subtract(left: Any, right: Any) -> Any:
    return _bounded(_number(left) - _number(right))


def multiply(left: Any, right: Any) -> Any:
    if isinstance(right, str | list | tuple):
        left, right = right, left
    if isinstance(left, str | list | tuple):
        if not isinstance(right, int):
            raise TypeError(f"cannot multiply {type(left).__name__} by {type(right).__name__}")
        check_size(len(left) * max(right, 0))
        return left * right
    return _bounded(_number(left) * _number(right))


def divide(left: Any, right: Any) -> Any:
    return _number(left) / _number(right)


def floor_divide(left: Any, right: Any) -> Any:
    return _number(left) // _number(right)


def power(left: Any, right: Any) -> Any:
    base, exponent = _number(left), _number(right)
    if abs(exponent) > 64:
        raise SecurityError(f"it raises a number to the power of {exponent}; the limit is 64")
    return _bounded(base**exponent)


def remainder(left: Any, right: Any) -> Any:
    return format_percent(left, right) if isinstance(left, str) else _number(left) % _number(right)


OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": add, "-": subtract, "*": multiply, "/": divide, "//": floor_divide, "**": power, "%": remainder,
}  # fmt: skip


def format_percent(pattern: str, values: Any) -> str:
    """`pattern % values` with fields of bounded width, each value printed as text or a number."""
    digits = 0
    for letter in pattern:
        digits = digits * 10 + int(letter) if letter in "0123456789" else 0
        if digits > MAX_FORMAT:
            raise SecurityError(f"it formats with a number above {MAX_FORMAT}")
    if "*" in pattern:
        raise SecurityError("it formats with '*'")
    printed_size(values)
    check_size(len(pattern) + pattern.count("%") * (MAX_FORMAT + printed_size(values)))
    return pattern % values


def format_braces(pattern: str, *values: Any, **named: Any) -> str:
    """`pattern.format(...)` with plain fields: "{}", "{0}", "{name}"."""
    pieces: list[Any] = []
    number = 0
    for literal, name, how, conversion in string.Formatter().parse(pattern):
        pieces.append(literal)
        if name is None:
            continue
        if how or conversion:
            raise SecurityError(f"it formats with {{{name}!{conversion}:{how}}}; expected plain fields")
        if name == "" or name.isdecimal():
            pieces.append(values[int(name or number)])
            number += 1
        else:
            pieces.append(named[name])
    return concatenate(pieces)


def join(values: Iterable[Any], separator: Any = "") -> str:
    texts = [text_of(value) for value in values]
    between = text_of(separator)
    check_size(sum(map(len, texts)) + len(between) * max(len(texts) - 1, 0))
    return between.join(texts)


def replace(text: Any, old: Any, new: Any, count: int | None = -1) -> str:
    text, old, new = text_of(text), text_of(old), text_of(new)
    count = -1 if count is None else count
    found = text.count(old) if count < 0 else min(text.count(old), count)
    check_size(len(text) + found * max(len(new) - len(old), 0))
    return text.replace(old, new, count)


def indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    space = " " * _width(width) if isinstance(width, int) else text_of(width)
    lines = text_of(text).splitlines()
    check_size(sum(map(len, lines)) + (len(lines) + 1) * (len(space) + 1))
    rest = [space + line if line or blank else line for line in lines[1:]]
    return "\n".join([(space if first else "") + (lines[0] if lines else ""), *rest])


def sum_numbers(values: Iterable[Any], start: Number = 0) -> Number:
    for value in values:
        start = _bounded(start + _number(value))
    return start


def round_number(value: Any, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > 30 or method not in ("common", "ceil", "floor"):
        raise SecurityError(f"it rounds by the method {text_of(method)!r} to {precision} digits")
    if method == "common":
        return round(float(_number(value)), precision)
    scale = 10**precision
    return float((math.ceil if method == "ceil" else math.floor)(_number(value) * scale) / scale)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """A value as JSON; the options are those that transformers' templates have."""
    space = None if indent is None else " " * _width(indent) if isinstance(indent, int) else text_of(indent)
    between = concatenate(separators or ())
    check_size(printed_size(value) * (1 + len(space or "") + len(between)))
    made = json.dumps(value, ensure_ascii=ensure_ascii, indent=space, separators=separators, sort_keys=sort_keys)
    check_size(len(made))
    return made


def _width(count: int) -> int:
    if count > MAX_FORMAT:
        raise SecurityError(f"it indents by {count}; the limit is {MAX_FORMAT}")
    return count


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _number(value: Any) -> Number:
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return value


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise SecurityError(f"it makes a number of {value.bit_length()} bits; the limit is {MAX_BITS}")
    return value
