"""What a key table found: which names were used, dropped, left new, and what does not fit.

The report is a plain record for people and for `--json`; `require()` turns its problems into one
WeightsError whose single line names the first tensors concerned and the nearest row of the table.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polymodal.errors import WeightsError

if TYPE_CHECKING:
    from polymodal.weights.rows import Row

SHOWN = 4


@dataclass(frozen=True)
class Use:
    """One application of a row: its position in the table and the concrete names on both sides."""

    row: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class KeyReport:
    """Result of `KeyTable.check`; `ok` when nothing is left over on either side.

    copies: dropped names and the names whose values they must repeat, where the file has both.
    """

    uses: tuple[Use, ...] = ()
    dropped: tuple[str, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)
    idle_rows: tuple[str, ...] = ()
    one_way: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def used(self) -> tuple[str, ...]:
        """Source keys that fill something."""
        return tuple(name for use in self.uses for name in use.sources)

    @property
    def filled(self) -> tuple[str, ...]:
        """Target names that are filled by a row (tied names apart)."""
        return tuple(name for use in self.uses for name in use.targets)

    def require(self) -> None:
        """Raise one WeightsError when there are problems."""
        if self.problems:
            raise WeightsError(f"the weights do not fit the model: {join_problems(self.problems)}")

    def as_dict(self) -> dict[str, Any]:
        """Counts and problems under stable keys, for `--json`."""
        return {
            "ok": self.ok,
            "used": len(self.used),
            "dropped": len(self.dropped),
            "new": len(self.new),
            "tied": len(self.tied),
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        lengths = (len(self.used), len(self.dropped), len(self.new), len(self.tied))
        counts = "{} used, {} dropped, {} new, {} tied".format(*lengths)
        return counts if self.ok else f"{counts}; {join_problems(self.problems)}"


def join_problems(problems: Sequence[str]) -> str:
    """The first problems in one line and how many more there are."""
    rest = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def require_shapes(problems: Sequence[str]) -> None:
    """Raise one WeightsError when shapes do not fit."""
    if problems:
        raise WeightsError(f"the weights have other shapes than the model: {join_problems(problems)}")


def nearest_row(key: str, rows: Sequence[Row], side: str = "sources") -> str:
    """' (nearest row: ...)' for a name that no row covers, or '' for an empty table."""
    general = re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", key)
    names = {name: row for row in reversed(rows) for name in getattr(row, side)}
    close = difflib.get_close_matches(general, names, n=1, cutoff=0.3)
    return f" (nearest row: {names[close[0]]})" if close else ""
