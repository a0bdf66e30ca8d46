"""Boxes as PaLI-X writes them: four whole numbers from 0 to 999 and a name, as Pix2Seq (arXiv 2109.10852) orders them.

    "102 33 871 540 dog 0 0 500 999 cat"   <->   top, left, bottom, right in thousandths of a picture, then what it is

The paper names Pix2Seq and prints no answer; that numbers are plain words is recalled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, Grounding, Thing, require_box

BINS = 1000
_BOX = re.compile(r"(?<!\S)(\d+) (\d+) (\d+) (\d+) (?P<name>[^\d\s]\S*(?: (?!\d+ \d+ \d+ \d+ )\S+)*)")


def box_text(name: str, box: Box) -> str:
    """A box in 0..1 (left, top, right, bottom) in words.  Raises PromptError for one outside of the picture."""
    require_box(box)
    left, top, right, bottom = box
    numbers = (min(int(edge * BINS), BINS - 1) for edge in (top, left, bottom, right))
    return f"{' '.join(map(str, numbers))} {name}"


def read_boxes(text: str) -> tuple[Thing, ...]:
    """The things of an answer; PromptError for a number beyond 999 and for edges in the wrong order."""
    things = []
    for match in _BOX.finditer(text):
        top, left, bottom, right = (int(each) for each in match.groups()[:4])
        if max(top, left, bottom, right) >= BINS:
            raise PromptError(f"{match[0]}: expected numbers from 0 to {BINS - 1}")
        if top > bottom or left > right:
            raise PromptError(f"{match[0]}: expected top, left, bottom, right, found a box of negative size")
        box = tuple((edge + 0.5) / BINS for edge in (left, top, right, bottom))
        things.append(Thing(label=match["name"], box=box))  # type: ignore[arg-type]
    return tuple(things)


def ground(answer: str, pictures: Sequence[Any]) -> Grounding:
    """The answer, and what it boxes in the last of the pictures."""
    things = read_boxes(answer)
    found = [Thing(label=each.label, box=each.box, picture=max(len(pictures) - 1, 0)) for each in things]
    return Grounding(text=", ".join(each.label for each in found) if found else answer, things=tuple(found))
