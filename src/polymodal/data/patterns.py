"""The regular expressions inside of tokenizers: read before they are compiled, so that none runs almost without end.

    pattern (Oniguruma's syntax) -> alternatives -> sequences -> atoms and repeats -> Shape, or ValueError

A search that backtracks cannot be stopped from outside, and the library ends in a panic where it stops by itself.  So a
pattern may repeat single characters as often as it likes, but no group that could match in several ways, and only a
few repeats may follow each other; what published tokenizers use is far below.
Traps: a class holds classes (`[^(\\s|[.,])]`); `{2,3}+` repeats a repeat, where `++` gives nothing back; a brace that
counts nothing is a letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

MAX_PATTERN = 10_000  # letters; the longest published one has about 600
MAX_DEPTH = 20  # groups within groups, classes within classes
MAX_LOOPS = 3  # repeats without an end in one sequence; the most published has 2
MAX_WAYS = 4096  # in which the choices of one sequence can be combined; published: below 100
MAX_REPEATS = 1000  # that a counted repeat may ask for, those inside of it included

PUBLISHED = frozenset({r"(?:\r?\n)+(?!\r?\n)"})  # matched in one way, which `_Reader` does not see

_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUP = re.compile(r"\?(?:<?[=!]|[imx]*(?:-[imx]+)?[:)]|>|<[A-Za-z]\w*>|\#)")
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[\w -]{1,60}\}|x\{[0-9a-fA-F]{1,8}\}|x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|[^\d])", re.DOTALL
)
_POSIX = re.compile(r"\[:\^?[a-z]{1,20}:\]")
_REFUSED_ESCAPES = frozenset("kgKQECMcXRyY")
_PLACES = frozenset("AzZbBG")


@dataclass
class Shape:
    """What matters of a part of a pattern.

    shortest: letters that it matches at least.  loops: repeats without an end, one behind the other.  ways: in which
    its choices can be combined.  size: atoms when counted repeats are written out.  literal: the one text that it
    matches, None where there are several.
    """

    shortest: int = 0
    loops: int = 0
    ways: int = 1
    size: int = 1
    literal: str | None = None

    @property
    def varies(self) -> bool:
        """Whether it can match the same text in more than one way."""
        return self.loops > 0 or self.ways > 1


def read_pattern(pattern: str) -> Shape:
    """The shape of a pattern.  Raises ValueError, saying what it does, for one that could take too long."""
    if pattern in PUBLISHED:
        return Shape()
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"its pattern has {len(pattern)} letters; the limit is {MAX_PATTERN}")
    reader = _Reader(pattern)
    shape = reader.alternatives(0, top=True)
    if reader.at < len(pattern):
        raise ValueError(f"the pattern {pattern[:60]!r} closes a group that it did not open")
    return shape


class _Reader:
    """Reads one pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def refuse(self, what: str) -> ValueError:
        return ValueError(f"the pattern {self.pattern[:60]!r} {what}")

    def alternatives(self, depth: int, top: bool = False) -> Shape:
        """What stands between two brackets; top: each alternative is tried once, nothing comes behind it."""
        if depth > MAX_DEPTH:
            raise self.refuse(f"has more than {MAX_DEPTH} groups in each other")
        found = [self.sequence(depth)]
        while self.at < len(self.pattern) and self.pattern[self.at] == "|":
            self.at += 1
            found.append(self.sequence(depth))
        if len(found) == 1:
            return found[0]
        one = top or _differ([each.literal for each in found])
        ways = max(each.ways for each in found) if one else sum(each.ways for each in found)
        return self.checked(Shape(min(each.shortest for each in found), max(each.loops for each in found), ways,
                                  sum(each.size for each in found)))  # fmt: skip

    def sequence(self, depth: int) -> Shape:
        whole = Shape(size=0, literal="")
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            each = self.repeated(depth)
            known = whole.literal is not None and each.literal is not None
            literal = f"{whole.literal}{each.literal}" if known else None
            whole = self.checked(Shape(whole.shortest + each.shortest, whole.loops + each.loops,
                                       whole.ways * each.ways, whole.size + each.size, literal))  # fmt: skip
        return whole

    def checked(self, shape: Shape) -> Shape:
        if shape.loops > MAX_LOOPS:
            raise self.refuse(f"has more than {MAX_LOOPS} repeats one behind the other")
        if shape.ways > MAX_WAYS:
            raise self.refuse(f"can match in more than {MAX_WAYS} ways")
        return shape

    def repeated(self, depth: int) -> Shape:
        """One atom with its repeat."""
        start = self.at
        atom, is_group = self.atom(depth)
        low, high = self.repeat()
        if (low, high) == (1, 1):
            return atom
        if self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
            gives_nothing_back = self.pattern[self.at] == "+"
            if self.pattern[self.at] == "*" or (gives_nothing_back and self.pattern[self.at - 1] == "}"):
                raise self.refuse("repeats a repeat")
            self.at += 1
        else:
            gives_nothing_back = False
        if self.repeat() != (1, 1):
            raise self.refuse("repeats a repeat")
        if is_group and (high is None or high > 1) and (atom.varies or atom.shortest == 0):
            raise self.refuse(
                f"repeats the group {self.pattern[start : self.at][:40]!r}, which can match in several ways"
            )
        times = low if high is None else high
        size = atom.size * max(times, 1)
        if size > MAX_REPEATS and times > 1:
            raise self.refuse(f"asks for more than {MAX_REPEATS} repeats")
        shortest = atom.shortest * low
        if gives_nothing_back:
            return Shape(shortest, 0, 1, size)
        if high is None or high - low > 8:  # as long as a text's word, so as slow as one without an end
            return Shape(shortest, atom.loops + 1, atom.ways, size)
        return Shape(shortest, atom.loops, atom.ways * (high - low + 1), size)

    def repeat(self) -> tuple[int, int | None]:
        """The next repeat, (1, 1) where there is none; None: without an end."""
        if self.at >= len(self.pattern):
            return 1, 1
        sign = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self.pattern[self.at])
        if sign is not None:
            self.at += 1
            return sign
        found = _COUNTED.match(self.pattern, self.at)
        if found is None or not (found[1] or found[3]):
            return 1, 1
        if len(found[0]) > 16:
            raise self.refuse(f"asks for more than {MAX_REPEATS} repeats")
        self.at = found.end()
        low = int(found[1] or 0)
        return low, (int(found[3]) if found[3] else None) if found[2] else low

    def atom(self, depth: int) -> tuple[Shape, bool]:
        """A letter, class, place or group; whether it is a group."""
        letter = self.pattern[self.at]
        if letter == "(":
            return self.group(depth), True
        if letter == "[":
            self.set_of_letters(0)
        elif letter == "\\":
            return self.escape(), False
        elif letter in "*+?":
            raise self.refuse("repeats nothing")
        else:
            self.at += 1
            if letter in "^$":
                return Shape(), False
            return Shape(shortest=1, literal=None if letter == "." else letter), False
        return Shape(shortest=1), False

    def escape(self) -> Shape:
        found = _ESCAPE.match(self.pattern, self.at)
        if found is None or found[0][1] in _REFUSED_ESCAPES:
            raise self.refuse(f"uses {self.pattern[self.at : self.at + 3]!r}, which no tokenizer needs")
        self.at = found.end()
        return Shape(shortest=0 if found[0][1] in _PLACES else 1)

    def set_of_letters(self, depth: int) -> None:
        """Skips one class, those inside of it included."""
        if depth > MAX_DEPTH:
            raise self.refuse(f"has more than {MAX_DEPTH} classes in each other")
        self.at += 1
        if self.pattern.startswith("^", self.at):
            self.at += 1
        if self.pattern.startswith("]", self.at):  # as the first letter it is one
            self.at += 1
        while self.at < len(self.pattern):
            letter = self.pattern[self.at]
            if letter == "]":
                self.at += 1
                return
            if letter == "[":
                posix = _POSIX.match(self.pattern, self.at)
                if posix is not None:
                    self.at = posix.end()
                else:
                    self.set_of_letters(depth + 1)
            else:
                self.at += 2 if letter == "\\" else 1
        raise self.refuse("does not end its class")

    def group(self, depth: int) -> Shape:
        self.at += 1
        opened = ""
        if self.pattern.startswith("?", self.at):
            found = _GROUP.match(self.pattern, self.at)
            if found is None or found[0] == "?#":
                raise self.refuse(f"uses {self.pattern[self.at - 1 : self.at + 3]!r}, which no tokenizer needs")
            opened = found[0]
            self.at = found.end()
            if "x" in opened and "<" not in opened:
                raise self.refuse("has comments")
            if opened.endswith(")"):  # flags for the rest
                return Shape()
        elif self.pattern.startswith("*", self.at):
            raise self.refuse("calls a function")
        inside = self.alternatives(depth + 1)
        if not self.pattern.startswith(")", self.at):
            raise self.refuse("does not close a group")
        self.at += 1
        if opened in ("?=", "?!", "?<=", "?<!"):
            return Shape(0, inside.loops, inside.ways, inside.size)
        return Shape(inside.shortest, 0, 1, inside.size) if opened == "?>" else inside


def _differ(texts: list[str | None]) -> bool:
    """Whether a text can begin with one of these at most, upper and lower case being the same."""
    known = sorted(text.casefold() for text in texts if text)
    if len(known) < len(texts):
        return False
    return not any(later.startswith(earlier) for earlier, later in pairwise(known))
