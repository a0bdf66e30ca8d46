"""Places in a picture as Unified-IO 2's location tokens: `<extra_id_200>` to `<extra_id_1199>`.

    a box: top, left, bottom, right as shares of the padded square, in steps of 1 / 999, then what it is

Trap: the picture stands in the middle of its square, so places count from half of the border on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, Grounding, Thing, require_box

FIRST, BINS = 200, 1000
_PLACE = re.compile(r"<extra_id_(\d+)>")
_BOX = re.compile(r"((?:\s*<extra_id_\d+>){4})\s*([^<]*)")


def border(size: tuple[int, int]) -> tuple[float, float, int]:
    """Pixels left and above of a picture of `size` (width, height) in its square, and the square's side."""
    side = max(size)
    return (side - size[0]) / 2, (side - size[1]) / 2, side


def region_text(box: Box, size: tuple[int, int]) -> str:
    """A box in 0..1 of a picture of `size` (width, height) as four tokens.  Raises PromptError for one outside."""
    require_box(box)
    left, top, right, bottom = box
    (width, height), (beside, above, side) = size, border(size)
    edges = (top * height + above, left * width + beside, bottom * height + above, right * width + beside)
    return " ".join(f"<extra_id_{FIRST + int(edge / side * (BINS - 1))}>" for edge in edges)


def read_boxes(text: str, size: tuple[int, int]) -> list[tuple[Box, str]]:
    """Boxes in 0..1 of a picture, and the words behind each.  Raises PromptError for a token that is no location."""
    found = []
    (width, height), (beside, above, side) = size, border(size)
    for tokens, words in _BOX.findall(text):
        numbers = [int(each) - FIRST for each in _PLACE.findall(tokens)]
        if wrong := [each for each in numbers if not 0 <= each < BINS]:
            raise PromptError(f"<extra_id_{wrong[0] + FIRST}> is no location; expected <extra_id_{FIRST}> to "
                              f"<extra_id_{FIRST + BINS - 1}>")  # fmt: skip
        top, left, bottom, right = (each / (BINS - 1) * side for each in numbers)
        shares = ((left - beside) / width, (top - above) / height, (right - beside) / width, (bottom - above) / height)
        box: Any = tuple(float(each) for each in np.clip(shares, 0, 1))
        found.append((box, words.strip()))
    return found


def ground(answer: str, pictures: Sequence[Any]) -> Grounding:
    """The answer without its tokens, and the boxes in the last of its pictures.  Raises PromptError without one."""
    plain = re.sub(r"\s+", " ", _PLACE.sub(" ", answer)).strip()
    if not _PLACE.search(answer):
        return Grounding(text=plain, things=())
    if not pictures:
        raise PromptError("Unified-IO 2 writes boxes of a picture; found none")
    picture = getattr(pictures[-1], "picture", pictures[-1])
    found = read_boxes(answer, picture.size)
    things = tuple(Thing(label=label, box=box, picture=len(pictures) - 1) for box, label in found)
    return Grounding(text=plain, things=things)
