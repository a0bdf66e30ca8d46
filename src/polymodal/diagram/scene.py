"""A picture as data: boxes, texts and lines with coordinates, which `svg.py` and `png.py` write in the same way.

Colours are names of `theme.py`.  Units are CSS pixels; y grows downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle with round corners; stroke empty: no outline.  role: what it is, for tests and readers of the data
    ("node", "row", "cell", ...); key: of the node, row or cell it shows."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    radius: float = 8
    thickness: float = 1
    dashed: bool = False
    role: str = ""
    key: str = ""

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    def holds(self, other: Box, margin: float = 0.01) -> bool:
        """Whether the other lies inside."""
        return (
            self.x <= other.x + margin
            and self.y <= other.y + margin
            and other.right <= self.right + margin
            and other.bottom <= self.bottom + margin
        )

    def overlaps(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom


@dataclass(frozen=True, kw_only=True)
class Text:
    """One line of text from x on (or around x); y is the base line.  width: as measured."""

    x: float
    y: float
    text: str
    size: float
    width: float
    bold: bool = False
    colour: str = "ink"
    anchor: Literal["start", "middle"] = "start"

    @property
    def box(self) -> Box:
        """The rectangle of its letters."""
        x = self.x - self.width / 2 if self.anchor == "middle" else self.x
        return Box(x=x, y=self.y - 0.8 * self.size, width=self.width, height=self.size, role="text")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points, with round corners where it bends; arrow: with a head at its end."""

    points: tuple[tuple[float, float], ...]
    colour: str
    thickness: float = 1.6
    arrow: bool = False
    dashed: bool = False
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A whole picture; shapes are painted in this order."""

    width: float
    height: float
    title: str
    description: str
    shapes: tuple[Box | Text | Line, ...]
