"""Places in a picture as Unified-IO 2's location tokens: `<extra_id_200>` to `<extra_id_1199>`.

    a box: top, left, bottom, right in the padded square, in steps of 1 / 999 of its side, then what it is
    joints: top, left of each one that is seen, then its name, as in "<extra_id_300> <extra_id_400> left eye"

Traps: the picture stands in the middle of its square, so places count from the border on; its sides there are whole
pixels of a product in float32, which is a pixel less now and then; a joint that is told again, or that nobody has, is
left out, and joints that are not told stand at the mean of the others, as official code has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, Grounding, Joint, Point, Pose, Thing, require_box

FIRST, BINS, SIDE = 200, 1000, 384
JOINTS = ("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
          "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
          "right ankle")  # fmt: skip
_PLACE = re.compile(r"<extra_id_(\d+)>")
_BOX = re.compile(r"((?:\s*<extra_id_\d+>){4})\s*([^<]*)")
_JOINT = re.compile(r"<extra_id_(\d+)> <extra_id_(\d+)> ([a-z ]+)")


@dataclass(frozen=True)
class Square:
    """Where a picture of `size` (width, height) lies in its square of `side` pixels."""

    size: tuple[int, int]
    side: int = SIDE

    @property
    def scale(self) -> np.float32:
        """Pixels of the square for one of the picture."""
        width, height = map(np.float32, self.size)
        side = np.float32(self.side)
        return min(side / height, side / width)

    @property
    def scaled(self) -> tuple[int, int]:
        """Width and height of the picture there."""
        width, height = (int(np.float32(each) * self.scale) for each in self.size)
        return width, height

    @property
    def border(self) -> tuple[int, int]:
        """Pixels to the left of the picture and above it."""
        left, top = ((self.side - each) // 2 for each in self.scaled)
        return left, top

    def tokens(self, points: Sequence[Point]) -> str:
        """Points in 0..1 of the picture as tokens, y before x."""
        numbers = []
        for point in points:
            for share, length, edge in reversed(list(zip(point, self.size, self.border, strict=True))):
                place = np.clip(np.float32(share * length) * self.scale + np.float32(edge), 0, np.float32(self.side))
                numbers.append(int(place / np.float32(self.side) * np.float32(BINS - 1)))
        return " ".join(f"<extra_id_{FIRST + number}>" for number in numbers)

    def points(self, numbers: Sequence[int]) -> list[Point]:
        """Bins y, x, y, x, ... -> points in 0..1 of the picture, within it."""
        back = float(np.float32(1) / self.scale)
        places = [number / (BINS - 1) * self.side for number in numbers]
        found = []
        for pair in zip(places[1::2], places[::2], strict=True):
            x, y = ((each - edge) * back / length
                    for each, edge, length in zip(pair, self.border, self.size, strict=True))  # fmt: skip
            found.append((min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)))
        return found


def region_text(box: Box, size: tuple[int, int], side: int = SIDE) -> str:
    """A box in 0..1 of a picture of `size` (width, height) as four tokens.  Raises PromptError for one outside."""
    require_box(box)
    return Square(size, side).tokens([box[:2], box[2:]])


def read_boxes(text: str, size: tuple[int, int], side: int = SIDE) -> list[tuple[Box, str]]:
    """Boxes in 0..1 of a picture, and the words behind each.  Raises PromptError for a token that is no location."""
    found, square = [], Square(size, side)
    for tokens, words in _BOX.findall(text):
        numbers = [int(each) - FIRST for each in _PLACE.findall(tokens)]
        if wrong := [each for each in numbers if not 0 <= each < BINS]:
            raise PromptError(f"<extra_id_{wrong[0] + FIRST}> is no location; expected <extra_id_{FIRST}> to "
                              f"<extra_id_{FIRST + BINS - 1}>")  # fmt: skip
        (left, top), (right, bottom) = square.points(numbers)
        found.append(((left, top, right, bottom), words.strip()))
    return found


def pose_text(pose: Pose, size: tuple[int, int], side: int = SIDE) -> str:
    """The joints that are seen, as the model writes them.  Raises PromptError for a point outside of the picture."""
    square, words = Square(size, side), []
    for joint in pose.joints:
        if not all(0 <= each <= 1 for each in joint.point):
            raise PromptError(f"{joint.name} at {joint.point}: expected a point within 0..1 of the picture")
        if joint.seen:
            words.append(f"{square.tokens([joint.point])} {joint.name}")
    return " ".join(words)


def read_pose(text: str, size: tuple[int, int], side: int = SIDE) -> Pose | None:
    """The seventeen joints of a person, None where none is told."""
    square, whole = Square(size, side), True
    seen: dict[str, Point] = {}
    for *tokens, words in _JOINT.findall(text):
        numbers, name = [int(each) - FIRST for each in tokens], words.strip()
        if not all(0 <= each < BINS for each in numbers):
            continue
        if name not in JOINTS or name in seen:
            whole = False
        else:
            seen[name] = square.points(numbers)[0]
    if not seen:
        return None
    x, y = (sum(each) / len(seen) for each in zip(*seen.values(), strict=True))
    joints = tuple(Joint(name=name, point=seen.get(name, (x, y)), seen=name in seen) for name in JOINTS)
    return Pose(joints=joints, whole=whole)


def ground(answer: str, pictures: Sequence[Any], side: int = SIDE) -> Grounding:
    """The answer without its tokens, and the boxes and joints in the last of its pictures.

    Raises PromptError without one.
    """
    plain = re.sub(r"\s+", " ", _PLACE.sub(" ", answer)).strip()
    if not _PLACE.search(answer):
        return Grounding(text=plain, things=())
    if not pictures:
        raise PromptError("Unified-IO 2 writes boxes of a picture; found none")
    size, last = getattr(pictures[-1], "picture", pictures[-1]).size, len(pictures) - 1
    things = tuple(Thing(label=label, box=box, picture=last) for box, label in read_boxes(answer, size, side))
    pose = read_pose(_BOX.sub("", answer), size, side)
    poses = () if pose is None else (Pose(joints=pose.joints, whole=pose.whole, picture=last),)
    return Grounding(text=plain, things=things, poses=poses)
