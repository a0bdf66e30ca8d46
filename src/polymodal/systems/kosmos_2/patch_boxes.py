"""Boxes as pairs of location tokens, KOSMOS-2's way (arXiv 2306.14824).

    box (left, top, right, bottom) in 0..1  <->  cells of a 32 x 32 grid  <->  "<patch_index_0044><patch_index_0863>"
    "<phrase> a dog</phrase><object>...</object> runs"  ->  "a dog runs", [Grounded("a dog", 0, 5, boxes)]

Traps: a box read back runs between the CENTRES of its two cells, unless they share a row or a column, then between
their outer edges; so encoding and decoding again gives a smaller box.  One phrase may carry several boxes, and boxes
may stand without a phrase.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, Grounding, Thing, require_box

SIDE = 32  # cells along one side
BETWEEN = "</delimiter_of_multi_objects/>"
_CELLS = r"<patch_index_(\d+)><patch_index_(\d+)>"
_OBJECT = re.compile(rf"(?:<phrase>([^<]+)</phrase>)?<object>((?:{_CELLS}{BETWEEN})*{_CELLS})</object>")
_TAG = re.compile("<.*?>")


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """A phrase of the plain text, where it stands there (`text[start:end]`), and its boxes in 0..1.

    phrase is "" for a box that stands without one; then start == end, its position in the text.
    """

    phrase: str
    start: int
    end: int
    boxes: tuple[Box, ...]


def cells_of(box: Box, side: int = SIDE) -> tuple[int, int]:
    """(first, last) cell, row by row, of a box (left, top, right, bottom) in 0..1; PromptError for an empty one."""
    require_box(box)
    left, top, right, bottom = box
    first = math.floor(top * side) * side + math.floor(left * side)
    return first, math.ceil(bottom * side - 1) * side + math.ceil(right * side - 1)


def box_of(first: int, last: int, side: int = SIDE) -> Box:
    """The box (left, top, right, bottom) in 0..1 that two cells stand for."""
    (top, left), (bottom, right) = divmod(first, side), divmod(last, side)
    near, far = (0.0, 1.0) if left == right or top == bottom else (0.5, 0.5)
    return (left + near) / side, (top + near) / side, (right + far) / side, (bottom + far) / side


def object_text(boxes: Sequence[Box], side: int = SIDE) -> str:
    """`<object>...</object>` for the boxes of one phrase."""
    pairs = (cells_of(box, side) for box in boxes)
    return f"<object>{BETWEEN.join(f'<patch_index_{a:04d}><patch_index_{b:04d}>' for a, b in pairs)}</object>"


def read_boxes(text: str, side: int = SIDE) -> tuple[str, list[Grounded]]:
    """What the model said -> the plain text, and the phrases with their boxes; pairs outside the grid are left out."""
    plain = _TAG.sub("", text)
    words = plain.strip()
    shift = len(plain) - len(plain.lstrip())
    found = []
    for match in _OBJECT.finditer(text):
        cells = [(int(a), int(b)) for a, b in re.findall(_CELLS, match[2])]
        boxes = tuple(box_of(a, b, side) for a, b in cells if max(a, b) < side * side)
        phrase = match[1] or ""
        start = len(_TAG.sub("", text[: match.start()])) - shift + len(phrase) - len(phrase.lstrip())
        found.append(Grounded(phrase=phrase.strip(), start=start, end=start + len(phrase.strip()), boxes=boxes))
    return words, found


def ground(answer: str, pictures: Sequence[Any]) -> Grounding:
    """What the model said about its picture -> the plain text and its phrases with their boxes.

    Raises PromptError unless there is one picture: the boxes do not tell of which they are.
    """
    if len(pictures) != 1:
        raise PromptError(f"KOSMOS-2 writes boxes of one picture; found {len(pictures)}")
    text, found = read_boxes(answer)
    return Grounding(text=text, things=tuple(Thing(label=each.phrase, box=box) for each in found for box in each.boxes))
