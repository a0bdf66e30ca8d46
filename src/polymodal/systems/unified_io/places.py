"""Places in a picture as Unified-IO's location tokens: `<extra_id_100>` to `<extra_id_1099>` are thousandths.

    a box:         top, left, bottom, right, then what it is     "<extra_id_300> ... <extra_id_700> bed"
    joints:        17 times y, x, then "1" (unseen), "2" or "3"
    a thousandth:  of the LONGER side, since a picture is padded below or on the right to a square

Traps: written is the whole part of 999 times the share, and bin b is read as (b + 1) / 1000, as official code does, so
a box read back lies up to two thousandths off; official code takes the last bin for a word, here it is a place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, Grounding, Thing, require_box

BINS, FIRST = 1000, 100
JOINTS = 17
Point = tuple[float, float]
_PLACE = re.compile(r"<extra_id_(\d+)>")


def location_token(index: int) -> str:
    """The name of a bin."""
    if not 0 <= index < BINS:
        raise PromptError(f"location {index}: expected a bin from 0 to {BINS - 1}")
    return f"<extra_id_{FIRST + index}>"


def region_text(box: Box, size: tuple[int, int]) -> str:
    """A box in 0..1 of a picture of `size` (width, height) as four tokens.  Raises PromptError for one outside."""
    require_box(box)
    left, top, right, bottom = box
    width, height = size
    edges = (top * height, left * width, bottom * height, right * width)
    return " ".join(location_token(int((BINS - 1) * (edge / max(size)))) for edge in edges)


@dataclass(frozen=True, kw_only=True)
class Joints:
    """Points in 0..1 of the picture's sides, and how each is seen: 0 not at all, 1 covered, 2 seen.

    whole: the answer had 17 of them, each with a number that it may have.
    """

    points: tuple[Point, ...]
    labels: tuple[int, ...]
    whole: bool


def read_places(text: str, size: tuple[int, int], each: int) -> list[tuple[tuple[float, ...], str]]:
    """Groups of `each` (2 or 4) location tokens -> x, y, ... in 0..1 of the sides, and the words behind them.

    Raises PromptError for a group of another number, and for a token that is no location.
    """
    found, pieces = [], _PLACE.split(text)
    if pieces[0].strip():
        raise PromptError(f"answer {text[:60]!r}: expected location tokens in front of words")
    numbers: list[int] = []
    for index in range(1, len(pieces), 2):
        number = int(pieces[index]) - FIRST
        if not 0 <= number < BINS:
            raise PromptError(f"<extra_id_{pieces[index]}> is no location; expected <extra_id_{FIRST}> to "
                              f"<extra_id_{FIRST + BINS - 1}>")  # fmt: skip
        numbers.append(number)
        words = pieces[index + 1].strip()
        if words or index + 2 >= len(pieces) or len(numbers) == each:
            if len(numbers) != each:
                raise PromptError(f"answer {text[:60]!r}: expected {each} location tokens together, found "
                                  f"{len(numbers)}")  # fmt: skip
            found.append((_shares(numbers, size), words))
            numbers = []
    return found


def _shares(numbers: Sequence[int], size: tuple[int, int]) -> tuple[float, ...]:
    """Bins y, x, y, x -> shares x, y, x, y of the sides, kept inside the picture."""
    sides, longest = (size[1], size[0]), max(size)
    shares = [min((number + 1) / BINS * longest / sides[i % 2], 1.0) for i, number in enumerate(numbers)]
    return tuple(shares[i ^ 1] for i in range(len(shares)))


def read_joints(text: str, size: tuple[int, int]) -> Joints | None:
    """The joints of a person; missing ones stand at the mean of the others.  None where none is seen."""
    found = read_places(text, size, 2)
    numbers = [int(words) - 1 if words.isdigit() else -1 for _, words in found]
    whole = len(found) == JOINTS and all(0 <= number <= 2 for number in numbers)
    labels = [number if 0 <= number <= 2 else 0 for number in numbers]
    if not any(labels):
        return None
    seen = [(at[0], at[1]) for (at, _), label in zip(found, labels, strict=True) if label]
    middle = _mean(seen)  # of those beyond the seventeenth too
    points = [(at[0], at[1]) if label else middle for (at, _), label in zip(found, labels, strict=True)][:JOINTS]
    labels = labels[:JOINTS]
    missing = JOINTS - len(points)
    points += [_mean(points)] * missing
    return Joints(points=tuple(points), labels=(*labels, *[0] * missing), whole=whole)


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def ground(answer: str, pictures: Sequence[Any]) -> Grounding:
    """The answer without its tokens, and the boxes in its picture.  Raises PromptError for boxes without a picture."""
    plain = re.sub(r"\s+", " ", _PLACE.sub(" ", answer)).strip()
    if not _PLACE.search(answer):
        return Grounding(text=plain, things=())
    if len(pictures) != 1:
        raise PromptError(f"Unified-IO writes boxes of one picture; found {len(pictures)}")
    picture = getattr(pictures[0], "picture", pictures[0])
    found = read_places(answer, picture.size, 4)
    return Grounding(text=plain, things=tuple(Thing(label=label, box=box) for box, label in found))  # type: ignore[arg-type]
