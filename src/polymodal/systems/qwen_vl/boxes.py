"""Boxes as Qwen-VL writes them (arXiv 2308.12966): whole numbers from 0 to 999 of a picture's width and height.

    "<ref>a dog</ref><box>(12,30),(500,999)</box> runs"  <->  text "a dog runs" and what was said of which box

Traps: several boxes may follow one phrase, and boxes may stand without one.  Published evaluation divides by 999, the
demo by 1000; here 999 is the far edge, as in evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, require_box

EDGE = 999
_BOX = r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>"
_GROUNDED = re.compile(rf"<ref>(?P<phrase>[^<]*)</ref>(?P<boxes>(?:{_BOX})*)|(?P<bare>(?:{_BOX})+)".replace(
    r"(\d+)", r"\d+"))  # fmt: skip
_ONE = re.compile(_BOX)


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """A phrase, where it stands in the plain text (`text[start:end]`), and its boxes in 0..1: left, top, right, bottom.

    phrase is "" for boxes that stand without one.
    """

    phrase: str
    start: int
    end: int
    boxes: tuple[Box, ...]


def box_text(boxes: Sequence[Box], phrase: str = "") -> str:
    """`<ref>phrase</ref><box>(x1,y1),(x2,y2)</box>...`; PromptError for a box outside of the picture or empty."""
    written = f"<ref>{phrase}</ref>" if phrase else ""
    for box in boxes:
        require_box(box)
        x1, y1, x2, y2 = (round(side * EDGE) for side in box)
        written += f"<box>({x1},{y1}),({x2},{y2})</box>"
    return written


def read_boxes(text: str) -> tuple[str, tuple[Grounded, ...]]:
    """An answer -> its plain text and what it grounds; PromptError for a coordinate beyond 999."""
    plain, found, last = "", [], 0
    for match in _GROUNDED.finditer(text):
        plain += text[last : match.start()]
        phrase, start = match["phrase"] or "", len(plain)
        plain += phrase
        boxes = tuple(_box(each) for each in _ONE.finditer(match["boxes"] or match["bare"] or ""))
        found.append(Grounded(phrase=phrase, start=start, end=len(plain), boxes=boxes))
        last = match.end()
    return plain + text[last:], tuple(found)


def _box(match: re.Match[str]) -> Box:
    left, top, right, bottom = (int(each) for each in match.groups())
    if max(left, top, right, bottom) > EDGE:
        raise PromptError(f"{match[0]}: expected coordinates from 0 to {EDGE}")
    return left / EDGE, top / EDGE, right / EDGE, bottom / EDGE
