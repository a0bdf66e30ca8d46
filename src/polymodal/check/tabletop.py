"""A table with a thing on it, for policies at tiny size: an arm is told to lift it or to press it down.

    a real picture on one half of the table, the arm in the middle -> two cameras
        static camera: the whole table;  gripper camera: what lies below the arm, nothing at first
    the teacher moves over the thing, then closes its gripper and goes up or down, as it is told

It is a drawing, no robot.  What a policy must do is there, though: the static camera says where to go, the gripper
camera when to close, the words what to do then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image as images
from PIL.Image import Image

from polymodal.check import real
from polymodal.data.actions import CALVIN, RobotAction

SIDE = 32  # pixels
COUNT = 8
TRAINED = range(6)
UNSEEN = range(6, COUNT)
WORDS = {"lift it": 1.0, "press it down": -1.0}
"""Instruction -> direction along z."""


@cache
def things() -> tuple[Image, ...]:
    """Their pictures."""
    return tuple(picture.resize((SIDE, SIDE)) for picture, _ in real.pictures()[:COUNT])


@dataclass
class Table:
    """half: where the thing lies, -1 left, 1 right.  arm: -1 over the left half, 1 over the right one."""

    thing: int
    half: float
    light: int
    arm: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator, among: range = TRAINED) -> Table:
        """Any of these things on any half, in any light."""
        return cls(thing=int(rng.choice(among)), half=float(rng.choice((-1, 1))), light=int(rng.integers(96, 160)))

    def cameras(self) -> tuple[Image, Image]:
        """(static, gripper)"""
        empty = images.new("RGB", (SIDE, SIDE), (self.light,) * 3)
        table = empty.copy()
        table.paste(things()[self.thing].resize((SIDE // 2, SIDE // 2)), (int(self.half > 0) * SIDE // 2, SIDE // 4))
        return table, things()[self.thing] if self.over else empty

    @property
    def over(self) -> bool:
        """Whether the arm is over the thing."""
        return abs(self.arm - self.half) < 0.5

    def teacher(self, instruction: str) -> list[float]:
        """The seven numbers of the right action."""
        along, up = (0.0, WORDS[instruction]) if self.over else (self.half - self.arm, 0.0)
        position = (along * CALVIN.metres, 0.0, up * CALVIN.metres)
        return CALVIN.write(RobotAction(position=position, rotation=(0.0, 0.0, 0.0), gripper_open=not self.over))

    def move(self, values: Sequence[float]) -> None:
        """The arm goes where an action sends it, and stays on the table."""
        self.arm = min(1.0, max(-1.0, self.arm + values[0]))
