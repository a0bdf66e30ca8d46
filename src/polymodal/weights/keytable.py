"""Key tables: the two-way, strict translation between the names of a checkpoint and those of a module.

A table is an ordered list of rows.  A row names source tensors and target tensors by patterns in which `{}`
stands for one index; the n-th `{}` on one side is the n-th on the other, and `{+4}` is the same index plus
four.  For each key the first row that matches decides.

    rename(a, b, *operations)      one tensor to one tensor
    fuse((q, k, v), qkv, ...)      several source tensors to one target; split is the opposite
    stack(experts.{}.w, w, 8)      an index of the source becomes the first dimension of the target
    copy(a, (b, c))                one source fills several targets
    drop(a)                        not used, on purpose; `part.**` drops a whole subtree
    drop(a, copy_of=b)             not used because it repeats b; where a file has both they must be equal

Strict means: every source key is used or dropped by name; every parameter and buffer is filled, tied to one
that is, or declared `new`; shapes agree.  All of that is checked before the first tensor is read.

Traps: `inverse()` cannot bring back what was dropped (those keys are `new` in the inverse) and does not
write tied names; `report.one_way` lists targets that the inverse would give to another row, because two
rows overlap.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights.report import SHOWN, KeyReport, Use, nearest_row, require_shapes
from polymodal.weights.rows import (
    Pattern,
    Row,
    compile_pattern,
    copy,
    drop,
    fill_pattern,
    fuse,
    pair,
    rename,
    skeleton,
    split,
    stack,
)
from polymodal.weights.tensors import shape_of

__all__ = [
    "KeyTable",
    "Row",
    "copy",
    "drop",
    "fuse",
    "pair",
    "rename",
    "split",
    "stack",
    "target_shapes",
]

Shapes = Mapping[str, Sequence[int]]
Target = nn.Module | Mapping[str, "Tensor | Sequence[int]"]


@dataclass(frozen=True)
class KeyTable:
    """Rows, names declared new (left as initialised) and tied names (name, name whose tensor it shares)."""

    rows: tuple[Row, ...] = ()
    new: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        names: Mapping[str, str | None] | None = None,
        *rows: Row,
        new: Iterable[str] = (),
        tied: Mapping[str, str] | None = None,
    ) -> KeyTable:
        """Build a table from plain renames ({source: target or None}) followed by rows with operations."""
        plain = [drop(s) if t is None else rename(s, t) for s, t in (names or {}).items()]
        return cls((*plain, *rows), tuple(new), tuple((tied or {}).items()))

    def __add__(self, other: KeyTable) -> KeyTable:
        return KeyTable(self.rows + other.rows, self.new + other.new, self.tied + other.tied)

    def prefixed(self, source: str = "", target: str = "") -> KeyTable:
        """The same table for a part that lies under `source` in the file and under `target` in the module."""
        rows = tuple(
            replace(
                row,
                sources=tuple(source + name for name in row.sources),
                targets=tuple(target + name for name in row.targets),
                copy_of=row.copy_of and source + row.copy_of,
            )
            for row in self.rows
        )
        tied = tuple((target + name, target + other) for name, other in self.tied)
        return KeyTable(rows, tuple(target + name for name in self.new), tied)

    def respelled(self, prefixes: Mapping[str, str]) -> KeyTable:
        """The same table for files whose names begin otherwise: each source name by the first prefix it begins with.

        Raises ConfigError when a name begins with none of them.
        """

        def spell(name: str) -> str:
            for old, new in prefixes.items():
                if name.startswith(old):
                    return new + name[len(old) :]
            raise ConfigError(f"key table: {name!r} begins with none of {', '.join(map(repr, prefixes))}")

        return KeyTable(tuple(row.spelled(spell) for row in self.rows), self.new, self.tied)

    def reworded(self, words: Mapping[str, str]) -> KeyTable:
        """The same table for files that call things by other words: pieces of source names replaced, one by one."""

        def spell(name: str) -> str:
            for old, new in words.items():
                name = name.replace(old, new)
            return name

        return KeyTable(tuple(row.spelled(spell) for row in self.rows), self.new, self.tied)

    def inverse(self) -> KeyTable:
        """The table for export: module names -> file names."""
        tied = tuple(drop(name) for name, _ in self.tied)
        used = tuple(row.inverse() for row in self.rows if row.targets)
        fresh = tuple(drop(name) for name in self.new)
        dropped = tuple(name for row in self.rows if not row.targets for name in row.sources)
        return KeyTable(tied + used + fresh, new=dropped)

    def check(
        self,
        source_keys: Iterable[str],
        target_keys: Iterable[str] | None,
        hints: bool = True,
        computed: Collection[str] = (),
    ) -> KeyReport:
        """Compare two lists of names without any tensor; problems are in the report, nothing is raised.

        `target_keys` None: whatever the rows write is accepted (conversion without a module).  hints: name the nearest
        row of the first problems, which takes milliseconds for each, and look for rows that go one way.  computed:
        targets that have their values already, which a file may hold or leave out.
        """
        source_keys = list(source_keys)
        groups, dropped, copies, unknown = self._group(source_keys)
        shown = SHOWN if hints else 0
        problems = [
            f"source key {key!r} has no row{nearest_row(key, self.rows) if i < shown else ''}"
            for i, key in enumerate(unknown)
        ]
        uses: list[Use] = []
        filled: dict[str, str] = {}
        for (position, indices), parts in groups.items():
            row = self.rows[position]
            sources = tuple(fill_pattern(name, indices) for name in row.sources)
            absent = [name for name in sources if name not in parts]
            if absent:
                problems.append(f"source key {absent[0]!r} is missing beside {parts[0]!r} for the row {row}")
                continue
            names = tuple(fill_pattern(name, indices) for name in row.targets)
            for name in names:
                if name in filled:
                    both = f"{filled[name]!r} and {sources[0]!r}"
                    problems.append(f"parameter {name!r} is filled twice, by {both}")
                filled[name] = sources[0]
            uses.append(Use(position, sources, names))
        needed = None if target_keys is None else [x for x in target_keys if x in filled or x not in computed]
        fresh, tied, more = self._targets(filled, needed, shown)
        return KeyReport(
            uses=tuple(uses),
            dropped=tuple(dropped),
            copies=copies,
            new=fresh,
            tied=tied,
            idle_rows=self._idle(uses),
            one_way=tuple(self._one_way(uses)) if hints else (),
            problems=tuple(problems + more),
        )

    def _idle(self, uses: Iterable[Use]) -> tuple[str, ...]:
        busy = {use.row for use in uses}
        return tuple(str(row) for i, row in enumerate(self.rows) if row.targets and i not in busy)

    def _group(
        self, keys: Sequence[str]
    ) -> tuple[dict[tuple[int, tuple[int, ...]], list[str]], list[str], dict[str, str], list[str]]:
        """Sort source keys into (row, indices) groups, dropped keys, those of them that repeat another, and keys
        without a row."""
        groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
        dropped: list[str] = []
        copies: dict[str, str] = {}
        unknown: list[str] = []
        present = set(keys)
        for key in keys:
            match = self._find(key, "sources")
            if match is None:
                unknown.append(key)
            elif not self.rows[match[0]].targets:
                dropped.append(key)
                original = fill_pattern(self.rows[match[0]].copy_of, match[1])
                if original in present:
                    copies[key] = original
            else:
                groups.setdefault(match, []).append(key)
        return groups, dropped, copies, unknown

    def _find(self, key: str, side: str) -> tuple[int, tuple[int, ...]] | None:
        """The first row with a name that matches on this side, and the indices."""
        exact, wide = self._index[side]
        best: tuple[int, tuple[int, ...]] | None = None
        for position, pattern in (*exact.get(skeleton(key), ()), *wide):
            if best is None or position < best[0]:
                indices = pattern.match(key)
                best = best if indices is None else (position, indices)
        return best

    def use_of(self, key: str) -> Use | None:
        """The row that a source key belongs to, with all its concrete names; None when no row does."""
        found = self._find(key, "sources")
        if found is None:
            return None
        row = self.rows[found[0]]
        if not row.targets:
            return Use(found[0], (key,), ())
        sources, targets = (tuple(fill_pattern(name, found[1]) for name in side) for side in (row.sources, row.targets))
        return Use(found[0], sources, targets)

    @functools.cached_property
    def _index(self) -> dict[str, tuple[dict[str, list[tuple[int, Pattern]]], list[tuple[int, Pattern]]]]:
        """Per side: patterns by skeleton, and those that end in '**'; keeps large tables fast."""
        sides = {}
        for side in ("sources", "targets"):
            exact: dict[str, list[tuple[int, Pattern]]] = {}
            wide: list[tuple[int, Pattern]] = []
            for position, row in enumerate(self.rows):
                for name in getattr(row, side):
                    group = wide if name.endswith("**") else exact.setdefault(skeleton(name), [])
                    group.append((position, compile_pattern(name)))
            sides[side] = (exact, wide)
        return sides

    def _targets(
        self, filled: Mapping[str, str], target_keys: Iterable[str] | None, shown: int
    ) -> tuple[tuple[str, ...], dict[str, str], list[str]]:
        """Names left new, names tied to filled ones, and the problems of the target side."""
        tied = dict(self.tied)
        if target_keys is None:
            return (), {name: other for name, other in tied.items() if other in filled}, []
        keys = list(target_keys)
        known = set(keys)
        problems = [
            f"row for {source!r} fills {name!r}, which the model does not have"
            for name, source in filled.items()
            if name not in known
        ]
        fresh: list[str] = []
        shared: dict[str, str] = {}
        for name in keys:
            declared = any(compile_pattern(pattern).match(name) is not None for pattern in self.new)
            if declared and name in filled:
                problems.append(f"parameter {name!r} is declared new but is filled by {filled[name]!r}")
            elif tied.get(name) in filled:
                shared[name] = tied[name]
            elif declared:
                fresh.append(name)
            elif name not in filled:
                why = f" (tied to {tied[name]!r}, which is not filled)" if name in tied else ""
                near = nearest_row(name, self.rows, side="targets") if len(problems) < shown else ""
                problems.append(f"parameter {name!r} is not filled{why}{near}")
        return tuple(fresh), shared, problems

    def _one_way(self, uses: Iterable[Use]) -> Iterator[str]:
        for use in uses:
            for name in use.targets:
                match = self._find(name, "targets")
                if match is None or match[0] != use.row:
                    yield name

    def apply(self, source: Mapping[str, Tensor], target: Target | None = None) -> Iterator[tuple[str, Tensor]]:
        """Check names and shapes, then give (target name, tensor) one row at a time.

        `source` is read lazily; when it tells shapes (all readers do, see tensors.py) the check reads no
        tensor. `target` is a module, a mapping of name to tensor or shape, or None for a conversion without
        a model. Raises WeightsError, before any tensor is read, when names or shapes do not fit.
        """
        shapes = None if target is None else target_shapes(target)
        report = self.check(source.keys(), None if shapes is None else shapes.keys())
        report.require()
        self.check_shapes(source, shapes, report)
        return self._convert(source, report)

    def check_shapes(self, source: Mapping[str, Tensor], shapes: Shapes | None, report: KeyReport) -> None:
        """Raise WeightsError unless every row gives the shape its target has, by arithmetic; nothing is read."""
        problems: list[str] = []
        found: dict[str, tuple[int, ...]] = {}
        for use in report.uses:
            parts = [shape_of(source, name) for name in use.sources]
            try:
                results = self.rows[use.row].shapes(parts)
            except ConfigError as error:
                problems.append(f"{use.sources[0]!r} {parts[0]} does not fit its row: {error}")
                continue
            found.update(zip(use.targets, results, strict=True))
        if shapes is not None:
            given = dict(found)
            given.update({name: found[other] for name, other in report.tied.items() if other in found})
            problems += [
                f"{name!r} must have shape {tuple(shapes[name])}, the file gives {shape}"
                for name, shape in given.items()
                if tuple(shapes[name]) != shape
            ]
        require_shapes(problems)

    def convert(self, use: Use, source: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors of one row's targets; raises WeightsError when the values do not allow it."""
        try:
            return self.rows[use.row].convert([source[name] for name in use.sources])
        except ConfigError as error:
            raise WeightsError(f"{use.sources[0]!r}: {error}") from error

    def _convert(self, source: Mapping[str, Tensor], report: KeyReport) -> Iterator[tuple[str, Tensor]]:
        followers: dict[str, list[str]] = {}
        for name, other in report.tied.items():
            followers.setdefault(other, []).append(name)
        for use in report.uses:
            for name, tensor in zip(use.targets, self.convert(use, source), strict=True):
                yield name, tensor
                for follower in followers.get(name, ()):
                    if follower not in use.targets:
                        yield follower, tensor


def target_shapes(target: Target) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters and persistent buffers of a module, or of a mapping."""
    items = target.state_dict() if isinstance(target, nn.Module) else target
    return {name: tuple(x.shape) if isinstance(x, Tensor) else tuple(x) for name, x in items.items()}
