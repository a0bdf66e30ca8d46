"""Regular expressions that strangers wrote, matched in bounded time: PEFT's names of modules.

    matches(r"(.*\\.)?layers\\.(0|1)\\..*", "model.layers.0.q_proj")

Python's own matcher goes back and forth between the choices of a pattern, which for `(a+)+b` takes longer than anybody
waits.  Here every part of the pattern maps the set of places reached before it to the set behind it, so that
no choice is ever made twice.  The pattern is parsed by Python's own parser; references to groups are not supported.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

MAX_PATTERN = 2_000
MAX_TEXT = 1_000
_MAX_WORK = 2_000_000

Places = frozenset[int]


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` describes all of `text`.  Raises ValueError for a pattern that is none, or not supported."""
    if len(pattern) > MAX_PATTERN or len(text) > MAX_TEXT:
        raise ValueError(f"more than {MAX_PATTERN:,} characters of a pattern, or {MAX_TEXT:,} of a name")
    return len(text) in _Matcher(text).after(_parsed(pattern), frozenset((0,)))


@functools.lru_cache(maxsize=256)
def _parsed(pattern: str) -> Sequence[Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about patterns that will mean something else one day
            tree = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if tree.state.flags & ~re.UNICODE:
        raise ValueError("flags inside a pattern are not supported")
    return tree  # type: ignore[no-any-return]


class _Matcher:
    """One text.  Each method: places before a part of the pattern -> places behind it."""

    def __init__(self, text: str) -> None:
        self.text, self.work = text, 0

    def after(self, parts: Sequence[Any], places: Places) -> Places:
        for what, value in parts:
            if not places:
                break
            self.work += 1 + len(places)
            if self.work > _MAX_WORK:
                raise ValueError("a pattern that takes too long")
            step = _STEPS.get(what)
            if step is None:
                raise ValueError(f"{str(what).lower()} is not supported")
            places = step(self, value, places)
        return places

    def consumed(self, places: Places, fits: Callable[[str], bool]) -> Places:
        return frozenset(at + 1 for at in places if at < len(self.text) and fits(self.text[at]))

    def branch(self, value: Any, places: Places) -> Places:
        found: Places = frozenset()
        for choice in value[1]:
            found |= self.after(choice, places)
        return found

    def repeat(self, value: Any, places: Places) -> Places:
        least, most, part = value
        for _ in range(least):
            before, places = places, self.after(part, places)
            if places == before or not places:
                break
        reached = new = places
        for _ in range(min(most, len(self.text) + least) - least):
            new = self.after(part, new) - reached
            if not new:
                break
            reached |= new
        return reached

    def at(self, value: Any, places: Places) -> Places:
        edges = {code.AT_BEGINNING: (0,), code.AT_BEGINNING_STRING: (0,), code.AT_END: (len(self.text),),
                 code.AT_END_STRING: (len(self.text),)}  # fmt: skip
        if value not in edges:
            raise ValueError(f"{str(value).lower()} is not supported")
        return places & frozenset(edges[value])

    def ahead(self, value: Any, places: Places, wanted: bool = True) -> Places:
        direction, part = value
        if direction < 0:
            raise ValueError("looking back is not supported")
        return frozenset(at for at in places if bool(self.after(part, frozenset((at,)))) == wanted)

    def one_of(self, value: Any, places: Places) -> Places:
        return self.consumed(places, lambda letter: _in_class(value, letter))


def _in_class(value: Any, letter: str) -> bool:
    found, negated = False, False
    for what, part in value:
        if what is code.NEGATE:
            negated = True
        elif what is code.LITERAL:
            found |= ord(letter) == part
        elif what is code.RANGE:
            found |= part[0] <= ord(letter) <= part[1]
        else:
            found |= _CATEGORIES[part].fullmatch(letter) is not None
    return found != negated


_CATEGORIES = {
    code.CATEGORY_DIGIT: re.compile(r"\d"), code.CATEGORY_NOT_DIGIT: re.compile(r"\D"),
    code.CATEGORY_SPACE: re.compile(r"\s"), code.CATEGORY_NOT_SPACE: re.compile(r"\S"),
    code.CATEGORY_WORD: re.compile(r"\w"), code.CATEGORY_NOT_WORD: re.compile(r"\W"),
}  # fmt: skip
_STEPS: dict[Any, Callable[[_Matcher, Any, Places], Places]] = {
    code.LITERAL: lambda m, value, places: m.consumed(places, lambda letter: ord(letter) == value),
    code.NOT_LITERAL: lambda m, value, places: m.consumed(places, lambda letter: ord(letter) != value),
    code.ANY: lambda m, value, places: m.consumed(places, lambda letter: letter != "\n"),
    code.IN: _Matcher.one_of,
    code.BRANCH: _Matcher.branch,
    code.SUBPATTERN: lambda m, value, places: m.after(value[3], places),
    code.MAX_REPEAT: _Matcher.repeat,
    code.MIN_REPEAT: _Matcher.repeat,
    code.AT: _Matcher.at,
    code.ASSERT: _Matcher.ahead,
    code.ASSERT_NOT: lambda m, value, places: m.ahead(value, places, wanted=False),
}
