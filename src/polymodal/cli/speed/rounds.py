"""Measuring by turns: every side of every measure once a round, medians over the rounds, outputs compared.

    measures -> round after round, side after side -> medians -> Result

A machine that is busy for a while is so for every side.  A side returns what it made beside its figure; where two sides
or two rounds made different things, there is no figure: a fast wrong answer is worth nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Run = Callable[[], tuple[float, Any]]
"""One run -> its figure, and what it made (compared with ==)."""


@dataclass(frozen=True, eq=False)
class Near:
    """An output that is equal to another of its shape that differs nowhere by more than `tolerance`."""

    values: Tensor
    tolerance: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Near) or self.values.shape != other.values.shape:
            return False
        return bool(((self.values - other.values).abs() <= self.tolerance).all())


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing to measure.  sides: name -> run; the first is ours.  more: whether a larger figure is better.

    limit: the figure that the machine allows, from its speeds of this minute, where that can be said.
    aims: how many times as fast as a side ours should be (docs/speed.md; of `mini` on two cores).
    """

    name: str
    unit: str
    sides: dict[str, Run]
    more: bool = True
    limit: float | None = None
    aims: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Medians by side; `differ` names the sides whose output was not that of the first, and then there is no figure."""

    measure: Measure
    figures: dict[str, float] = field(default_factory=dict)
    differ: tuple[str, ...] = ()

    @property
    def times_as_fast(self) -> dict[str, float]:
        """How many times as fast as each other side ours is."""
        ours, *others = self.figures or {"": 0.0}
        better = {name: self.figures[ours] / self.figures[name] for name in others}
        return better if self.measure.more else {name: 1 / ratio for name, ratio in better.items()}

    def as_json(self) -> dict[str, Any]:
        """With keys that stay.  `aims` and `reached` are by side, as `times_as_fast_as`."""
        limit, aims = self.measure.limit, dict(self.measure.aims)
        ours = next(iter(self.figures.values()), None)
        return {
            "measure": self.measure.name,
            "unit": self.measure.unit,
            "figures": self.figures,
            "times_as_fast_as": self.times_as_fast,
            "aims": aims,
            "reached": {side: ratio >= aims[side] for side, ratio in self.times_as_fast.items() if side in aims},
            "share_of_limit": None if limit is None or ours is None else ours / limit,
            "differ": list(self.differ),
        }


def measured(measures: Sequence[Measure], rounds: int, say: Callable[[str], None] = lambda text: None) -> list[Result]:
    """Every measure after one round that warms up."""
    found: dict[tuple[int, str], list[tuple[float, Any]]] = {}
    for number in range(rounds + 1):
        for index, measure in enumerate(measures):
            say(f"round {number} of {rounds}: {measure.name}")
            for side, run in measure.sides.items():
                made = run()
                if number:
                    found.setdefault((index, side), []).append(made)
    return [
        _result(measure, {side: found[index, side] for side in measure.sides}) for index, measure in enumerate(measures)
    ]


def _result(measure: Measure, runs: dict[str, list[tuple[float, Any]]]) -> Result:
    expected = next(iter(runs.values()))[0][1]
    differ = tuple(side for side, made in runs.items() if any(output != expected for _, output in made))
    if differ:
        return Result(measure=measure, differ=differ)
    return Result(
        measure=measure, figures={side: statistics.median(figure for figure, _ in made) for side, made in runs.items()}
    )
