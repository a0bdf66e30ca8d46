"""Rows of a key table: names with `{}` for indices, and how tensors travel from one side to the other.

flow:  source tensors -> `before` operations of each -> join -> `after` operations of each -> target tensors

A row can be read from right to left (`inverse`): operations reversed, the join swapped for its opposite.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.weights.joins import Copy, Fuse, Join, Same, Split, Stack
from polymodal.weights.operations import NearestPositions, Operation, ResizePositions
from polymodal.weights.tensors import Shape

_SLOT = re.compile(r"\{(\+\d+)?\}")


@dataclass(frozen=True)
class Pattern:
    """A name taken apart: a regular expression, compiled when it is first needed, and the offset of each slot."""

    expression: str
    offsets: tuple[int, ...]

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.expression)

    def match(self, key: str) -> tuple[int, ...] | None:
        """The indices of `key`, or None when the name is another."""
        found = self.regex.fullmatch(key)
        if found is None:
            return None
        indices = tuple(int(text) - shift for text, shift in zip(found.groups(), self.offsets, strict=True))
        return indices if all(index >= 0 for index in indices) else None


@functools.lru_cache(maxsize=65536)
def compile_pattern(text: str) -> Pattern:
    """Take apart a name with `{}` slots; an index has no leading zero, so that it can be written back."""
    subtree = text == "**" or text.endswith(".**")
    body = text[:-2] if subtree else text
    pieces: list[str] = []
    offsets: list[int] = []
    end = 0
    for slot in _SLOT.finditer(body):
        pieces += (re.escape(body[end : slot.start()]), r"(0|[1-9]\d*)")
        offsets.append(int(slot.group(1) or 0))
        end = slot.end()
    pieces.append(re.escape(body[end:]))
    if any(mark in _SLOT.sub("", body) for mark in "{}*"):
        raise ConfigError(f"key table: {text!r} may hold only '{{}}', '{{+n}}' and a final '.**'")
    return Pattern("".join(pieces) + (".+" if subtree else ""), tuple(offsets))


@functools.lru_cache(maxsize=65536)
def skeleton(text: str) -> str:
    """A name or pattern with every run of digits and slots as '#': what matches has the same skeleton."""
    return re.sub(r"\d+", "#", _SLOT.sub("0", text))


def fill_pattern(text: str, indices: Sequence[int]) -> str:
    """Write indices into the slots of a pattern."""
    numbers = iter(indices)
    return _SLOT.sub(lambda slot: str(next(numbers) + int(slot.group(1) or 0)), text)


Operations = tuple[Operation, ...]


@dataclass(frozen=True)
class Row:
    """One row; `targets` empty means dropped.  Made by `rename`, `fuse`, `split`, `stack`, `copy`, `drop`.

    copy_of: of a dropped source, the other source that must have the same values where a file has both.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    join: Join = field(default_factory=Same)
    before: tuple[Operations, ...] = ()
    after: tuple[Operations, ...] = ()
    copy_of: str = ""

    def __post_init__(self) -> None:
        names = self.sources + self.targets
        if self.targets:
            slots = {len(compile_pattern(name).offsets) for name in names}
            if len(slots) != 1:
                raise ConfigError(f"key table: the names of one row need the same number of '{{}}': {self}")
            if any(name.endswith("**") for name in names):
                raise ConfigError(f"key table: '**' is only for dropped and new names: {self}")

    def __str__(self) -> str:
        return f"'{_names(self.sources)}' -> '{_names(self.targets)}'"

    def convert(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Source tensors in the row's order -> target tensors in the row's order."""
        results = self.join([_run(ops, x) for ops, x in zip(self._before, parts, strict=True)])
        return [_run(ops, x) for ops, x in zip(self._after, results, strict=True)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """What `convert` would make of tensors of these shapes; nothing is computed.  Raises ConfigError."""
        joined = self.join.shapes([_shaped(ops, shape) for ops, shape in zip(self._before, shapes, strict=True)])
        return [_shaped(ops, shape) for ops, shape in zip(self._after, joined, strict=True)]

    def views(self, targets: Sequence[Tensor]) -> list[Tensor] | None:
        """The parts of the targets that the sources fill unchanged; None when values are computed."""
        return None if any(self._before) or any(self._after) else self.join.views(targets)

    def spelled(self, spell: Callable[[str], str]) -> Row:
        """The same row with other names on the source side."""
        return replace(self, sources=tuple(map(spell, self.sources)), copy_of=self.copy_of and spell(self.copy_of))

    @property
    def plain(self) -> bool:
        """Whether one tensor is copied to one target unchanged."""
        return isinstance(self.join, Same) and not any(self._before) and not any(self._after)

    @property
    def lossy(self) -> bool:
        """Whether different sources may give one target, or some targets have no source: positions are resized."""
        operations = [each for some in (*self._before, *self._after) for each in some]
        return any(isinstance(each, ResizePositions | NearestPositions) for each in operations)

    @property
    def _before(self) -> tuple[Operations, ...]:
        return self.before or ((),) * len(self.sources)

    @property
    def _after(self) -> tuple[Operations, ...]:
        return self.after or ((),) * len(self.targets)

    def inverse(self) -> Row:
        """The same row read from right to left; not defined for a dropped row."""
        back = replace(self, sources=self.targets, targets=self.sources, join=self.join.inverse())
        return replace(
            back,
            before=tuple(_reverse(ops) for ops in self._after),
            after=tuple(_reverse(ops) for ops in self._before),
        )


def _names(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{names[0]} ... {names[-1]}"
    return " + ".join(names) or "dropped"


def _run(operations: Operations, x: Tensor) -> Tensor:
    for operation in operations:
        x = operation(x)
    return x


def _shaped(operations: Operations, shape: Shape) -> Shape:
    for operation in operations:
        shape = operation.shape(shape)
    return shape


def _reverse(operations: Operations) -> Operations:
    return tuple(operation.inverse() for operation in reversed(operations))


def rename(source: str, target: str, *operations: Operation) -> Row:
    """One tensor to one tensor, through `operations` in order."""
    return Row((source,), (target,), before=(operations,))


def pair(source: str, target: str, *operations: Operation) -> tuple[Row, Row]:
    """Rows for a weight (with `operations`) and its bias."""
    return rename(f"{source}.weight", f"{target}.weight", *operations), rename(f"{source}.bias", f"{target}.bias")


def drop(source: str, copy_of: str = "") -> Row:
    """A source that is not used, on purpose.

    copy_of: the source it repeats (a tied head); a file whose copy has other values is not loaded without it.
    """
    return Row((source,), copy_of=copy_of)


def fuse(
    sources: Sequence[str],
    target: str,
    *,
    sizes: Sequence[int] | None = None,
    dim: int = 0,
    groups: int = 1,
    each: Sequence[Sequence[Operation]] | None = None,
) -> Row:
    """Several sources concatenated into one target; `each` gives the operations of every source beforehand.

    `sizes` are the lengths along `dim`; they may be left out only when they are equal.
    """
    join = Fuse(len(sources), None if sizes is None else tuple(sizes), dim, groups)
    return Row(tuple(sources), (target,), join, before=_each(each, len(sources)))


def split(
    source: str,
    targets: Sequence[str],
    *operations: Operation,
    sizes: Sequence[int] | None = None,
    dim: int = 0,
    groups: int = 1,
    each: Sequence[Sequence[Operation]] | None = None,
) -> Row:
    """One source, after `operations`, cut into several targets; `each` gives the operations of each."""
    join = Split(len(targets), None if sizes is None else tuple(sizes), dim, groups)
    return Row((source,), tuple(targets), join, before=(operations,), after=_each(each, len(targets)))


def stack(source: str, target: str, count: int, *operations: Operation) -> Row:
    """The last `{}` of `source` runs over 0..count-1 and becomes the first dimension of `target`."""
    head, slot, tail = source.rpartition("{}")
    if not slot:
        raise ConfigError(f"key table: stack needs a '{{}}' in {source!r} for the stacked index")
    sources = tuple(f"{head}{index}{tail}" for index in range(count))
    return Row(sources, (target,), Stack(count), before=(operations,) * count)


def copy(source: str, targets: Sequence[str]) -> Row:
    """One source fills several targets, each with its own memory."""
    return Row((source,), tuple(targets), Copy(len(targets)))


def _each(each: Sequence[Sequence[Operation]] | None, count: int) -> tuple[Operations, ...]:
    if each is None:
        return ()
    if len(each) != count:
        raise ConfigError(f"key table: 'each' has {len(each)} entries for {count} tensors")
    return tuple(tuple(operations) for operations in each)
