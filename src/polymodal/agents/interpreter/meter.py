"""What a program has used up: steps, seconds, memory.

Memory is counted by what is made, not by what is held: every value is charged when it is made and nothing is given
back, so that a program never holds more than its limit.  A cell is eight bytes or one place in a list.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from polymodal.agents.interpreter.errors import LimitError
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ProgramLimits:
    """steps: nodes evaluated.  seconds: looked at between steps, so that a model's call ends by itself.  cells: memory
    made, of 8 bytes.  depth: calls inside calls.  calls: of the host's functions."""

    steps: int = 200_000
    seconds: float = 60.0
    cells: int = 2_000_000
    depth: int = 40
    calls: int = 1_000

    def __post_init__(self) -> None:
        if min(self.steps, self.cells, self.depth, self.calls) < 1 or not self.seconds > 0:
            raise ConfigError(f"program limits must be above 0, found {self}")


class Meter:
    """Counts against the limits; raises LimitError."""

    def __init__(self, limits: ProgramLimits) -> None:
        self.limits = limits
        self.steps = self.cells = self.calls = self.depth = 0
        self._begin = time.monotonic()

    def step(self, count: int = 1) -> None:
        self.steps += count
        if self.steps > self.limits.steps:
            raise LimitError(f"the program takes more than {self.limits.steps:,} steps")
        if self.steps % 16 < count and time.monotonic() - self._begin > self.limits.seconds:
            raise LimitError(f"the program takes longer than {self.limits.seconds:g} s")

    def make(self, cells: int) -> None:
        """Before a value of that many cells is made."""
        self.cells += cells
        if self.cells > self.limits.cells:
            raise LimitError(f"the program makes more than {8 * self.limits.cells // 1_000_000} MB of values")

    def host_call(self) -> None:
        self.calls += 1
        if self.calls > self.limits.calls:
            raise LimitError(f"the program calls models more than {self.limits.calls:,} times")
        self.step()
