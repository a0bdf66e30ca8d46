"""Boxes as MiniGPT-v2 writes them (arXiv 2310.09478): hundredths of a side, in the text, after their phrase.

    (left, top, right, bottom) in 0..1     <->  "{<31><12><70><95>}"
    a phrase and its boxes                 <->  "<p>two cats</p> {<2><11><49><98>}<delim>{<53><4><100><78>}"

Traps: the numbers are rounded down, so reading gives a box up to a hundredth to the left and above; a picture is
squashed to a square, so shares of its own sides need no border; what a model leaves unfinished is no box.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, require_box

TASKS = {
    "vqa": "[vqa] ",
    "caption": "[caption] ",
    "grounded caption": "[grounding] ",
    "find": "[refer] ",
    "name": "[identify] ",
    "detect": "[detection] ",
}
"""What is written in front of a question, by task."""
STEPS = 100
_BOX = r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}"
_PHRASE = re.compile(rf"<p>(.*?)</p>\s*({_BOX}(?:<delim>{_BOX})*)")


def box_text(box: Box) -> str:
    """`{<left><top><right><bottom>}` of a box in 0..1; PromptError for one that is none."""
    require_box(box)
    return "{" + "".join(f"<{int(side * STEPS + 1e-9)}>" for side in box) + "}"


def phrase_text(phrase: str, boxes: Sequence[Box]) -> str:
    """`<p>phrase</p> {...}<delim>{...}`; PromptError for a phrase without a box."""
    if not boxes:
        raise PromptError(f"phrase {phrase!r}: expected one box at least, found none")
    return f"<p>{phrase}</p> {'<delim>'.join(map(box_text, boxes))}"


def read_boxes(text: str) -> list[Box]:
    """Every box of a text, in order, in 0..1; numbers over 100 are no box."""
    found = ([int(number) for number in match] for match in re.findall(_BOX, text))
    return [(a / STEPS, b / STEPS, c / STEPS, d / STEPS) for a, b, c, d in found if max(a, b, c, d) <= STEPS]


def read_phrases(text: str) -> list[tuple[str, list[Box]]]:
    """Phrases with their boxes, in order, as grounded captions and detections have them."""
    return [(match[1], read_boxes(match[2])) for match in _PHRASE.finditer(text)]
