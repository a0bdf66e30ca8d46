"""What a robot's arm does in one step, and the seven numbers that stand for it.

    RobotAction(position=(0.01, 0, 0), rotation=(0, 0, 0), gripper_open=True)  <->  [0.5, 0, 0, 0, 0, 0, 1]

CALVIN's relative actions (mees/calvin, dataset/README.md): displacements of the tool centre point, clipped to -1..1,
where 1 is 0.02 m along an axis of the world and 0.05 rad around one; the gripper is -1 closed, 1 open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.errors import PromptError

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class RobotAction:
    """position: displacement along x, y, z in metres.  rotation: around x, y, z in radians."""

    position: Triple
    rotation: Triple
    gripper_open: bool


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """metres, radians: what the number 1 stands for."""

    metres: float
    radians: float

    def write(self, action: RobotAction) -> list[float]:
        """The seven numbers; what is farther than 1 is clipped, as in the data."""
        scaled = [x / self.metres for x in action.position] + [x / self.radians for x in action.rotation]
        if len(scaled) != 6 or not all(map(math.isfinite, scaled)):
            raise PromptError(f"action: expected three finite numbers of position and of rotation, found {action}")
        return [*(min(1.0, max(-1.0, x)) for x in scaled), 1.0 if action.gripper_open else -1.0]

    def read(self, values: Sequence[float]) -> RobotAction:
        """Raises PromptError unless these are seven numbers of -1..1, the last -1 or 1."""
        numbers = [float(x) for x in values]
        if len(numbers) != 7 or not all(-1 <= x <= 1 for x in numbers) or numbers[6] not in (-1.0, 1.0):
            raise PromptError(f"action: expected 7 numbers in -1..1, the gripper's -1 or 1 last; found {numbers}")
        x, y, z = (number * self.metres for number in numbers[:3])
        a, b, c = (number * self.radians for number in numbers[3:6])
        return RobotAction(position=(x, y, z), rotation=(a, b, c), gripper_open=numbers[6] > 0)


CALVIN = ActionSpace(metres=0.02, radians=0.05)
