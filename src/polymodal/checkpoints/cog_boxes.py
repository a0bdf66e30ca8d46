"""Boxes in the answers of CogAgent and CogCoM: thousandths of the picture, `[[086,540,400,760;...]]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from polymodal.data.coordinates import CoordinateText
from polymodal.pipelines.grounding import Grounding, Thing

PLACES = CoordinateText(decimals=0, scale=1000, digits=3, squared=False)
"""Thousandths of the picture as it is; the model writes `[[086,540,400,760]]`, `PLACES.write` in one more bracket."""
BOXES = re.compile(r"\s*\[\[[\d,;]+\]\]")


def things_in(text: str) -> list[Thing]:
    """The boxes of a text, each with the words between it and what ends a clause or the box before."""
    things: list[Thing] = []
    last = 0
    for found in BOXES.finditer(text):
        label = re.split(r"[.,;:\n]", text[last : found.start()])[-1].strip()
        boxes = [box for group in PLACES.read(found[0], (1, 1)) for box in group]
        things += [Thing(label=label, box=(left, top, right, bottom)) for left, top, right, bottom in boxes]
        last = found.end()
    return things


def grounded(answer: str, pictures: Sequence[Any]) -> Grounding:
    """An answer about one picture without its boxes, and what they are of."""
    return Grounding(text=BOXES.sub("", answer), things=tuple(things_in(answer)) if pictures else ())
