"""Where in a picture the things are that an answer is about: boxes with names, in numbers, as JSON and drawn.

    Thing(label="dog", box=(0.1, 0.2, 0.6, 0.9), score=0.8)     box: (left, top, right, bottom) in 0..1 of its picture
    -> {"label": "dog", "box": [64, 96, 384, 432], "score": 0.8, "picture": 0}        pixels, for everybody else
    Pose(joints=(Joint(name="nose", point=(0.3, 0.4)), ...))             the joints of a body, where a model tells them

Systems find them in two ways, both behind `LoadedModel.ground`: written into the answer as tokens (KOSMOS-2), or by a
detector that looks beside the language model (mini).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pillow
from PIL import ImageDraw

from polymodal.errors import PromptError

Box = tuple[float, float, float, float]
Point = tuple[float, float]
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def require_box(box: Box) -> None:
    """Raises PromptError for one that is none: left, top, right, bottom within 0..1 of the picture."""
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise PromptError(f"box {tuple(box)}: expected left < right and top < bottom within 0..1 of the picture")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that was found: its name ("" for a box without one), its box in 0..1, and how sure that is, 0..1.

    score: None where the model gives none.  picture: which of the conversation's pictures, from 0.
    """

    label: str
    box: Box
    score: float | None = None
    picture: int = 0

    def as_dict(self, size: tuple[int, int]) -> dict[str, Any]:
        """The stable keys, with the box in whole pixels of a picture of `size` (width, height)."""
        score = None if self.score is None else round(self.score, 4)
        return {"label": self.label, "box": pixels(self.box, size), "score": score, "picture": self.picture}


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A point of a body, (x, y) in 0..1 of its picture; seen: False where it was not told and stands in the middle of
    those that were."""

    name: str
    point: Point
    seen: bool = True


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The joints of a body in the order of their system.  whole: the answer told each once, by a name that there is.

    picture: which of the conversation's pictures, from 0.
    """

    joints: tuple[Joint, ...]
    whole: bool = True
    picture: int = 0

    def points(self, size: tuple[int, int]) -> list[Point]:
        """The joints in pixels of a picture of `size` (width, height)."""
        return [(joint.point[0] * size[0], joint.point[1] * size[1]) for joint in self.joints]

    def as_dict(self, size: tuple[int, int]) -> dict[str, Any]:
        """The stable keys, with points in tenths of pixels of a picture of `size` (width, height)."""
        joints = [{"name": joint.name, "point": [round(each, 1) for each in point], "seen": joint.seen}
                  for joint, point in zip(self.joints, self.points(size), strict=True)]  # fmt: skip
        return {"joints": joints, "whole": self.whole, "picture": self.picture}


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """An answer in plain words, the things it is about, and the bodies whose joints it tells."""

    text: str
    things: tuple[Thing, ...]
    poses: tuple[Pose, ...] = ()


def pixels(box: Box, size: tuple[int, int]) -> list[int]:
    """A box in 0..1 -> [left, top, right, bottom] in pixels of a picture of `size` (width, height), kept inside it."""
    sides = (*size, *size)
    return [min(max(round(edge * side), 0), side) for edge, side in zip(box, sides, strict=True)]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (sum(areas) - width * height)


def distinct(things: Iterable[Thing], most: float = 0.5) -> list[Thing]:
    """Without those that overlap a thing of the same name before them by more than `most`; the surest come first."""
    kept: list[Thing] = []
    for thing in things:
        if all(each.label != thing.label or overlap(each.box, thing.box) <= most for each in kept):
            kept.append(thing)
    return kept


def draw_boxes(picture: Pillow.Image, named: Iterable[tuple[str, Sequence[Box]]]) -> Pillow.Image:
    """A copy of the picture with every box drawn and named, one colour for each name; boxes in 0..1."""
    annotated = picture.convert("RGB")
    pen = ImageDraw.Draw(annotated)
    thick = max(2, round(min(annotated.size) / 150))
    for index, (name, boxes) in enumerate(named):
        colour = _COLOURS[index % len(_COLOURS)]
        for left, top, right, bottom in boxes:
            corner = (left * annotated.width, top * annotated.height)
            pen.rectangle((*corner, right * annotated.width, bottom * annotated.height), outline=colour, width=thick)
            if name:
                origin = (corner[0] + thick + 1, corner[1] + thick)
                pen.rectangle(pen.textbbox(origin, name), fill=colour)
                pen.text(origin, name, fill="white")
    return annotated


def draw_things(picture: Pillow.Image, things: Iterable[Thing]) -> Pillow.Image:
    """`draw_boxes` of the things that are in one picture."""
    named: dict[str, list[Box]] = {}
    for thing in things:
        named.setdefault(thing.label, []).append(thing.box)
    return draw_boxes(picture, named.items())


def draw_poses(picture: Pillow.Image, poses: Iterable[Pose]) -> Pillow.Image:
    """A copy of the picture with a dot at every joint that is seen, one colour for each body."""
    annotated = picture.convert("RGB")
    pen = ImageDraw.Draw(annotated)
    radius = max(2, round(min(annotated.size) / 80))
    for index, pose in enumerate(poses):
        colour = _COLOURS[index % len(_COLOURS)]
        for joint, (x, y) in zip(pose.joints, pose.points(annotated.size), strict=True):
            if joint.seen:
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white")
    return annotated
