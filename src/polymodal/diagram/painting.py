"""What all painters share: sizes, lines of text, and what a painted node hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from polymodal.diagram.fonts import LINE, width
from polymodal.diagram.scene import Box, Line, Text

PAD, GAP = 12, 8
TITLE, WORDS, SMALL = 14.0, 12.0, 11.0
BACKBONE_WIDTH, SEQUENCE_WIDTH = 268, 132
"""Width of the text inside a backbone and a sequence."""
STATE_WORDS = {"trained": "trained", "partly": "partly trained", "lora": "low-rank paths", "frozen": "frozen"}


@dataclass
class Painted:
    """Shapes, and the frames by key."""

    shapes: list[Box | Text | Line] = field(default_factory=list)
    frames: dict[str, Box] = field(default_factory=dict)


def add_lines(
    shapes: list[Box | Text | Line],
    lines: Sequence[str],
    x: float,
    y: float,
    size: float,
    *,
    bold: bool = False,
    colour: str = "ink",
    centred: bool = False,
) -> float:
    """Adds lines of text below y; returns the y below them."""
    for line in lines:
        shapes.append(Text(x=x, y=y + size, text=line, size=size, width=width(line, size, bold), bold=bold,
                           colour=colour, anchor="middle" if centred else "start"))  # fmt: skip
        y += size * LINE
    return y
