"""What the sequences of 4M say: boxes, facts of a picture and colours as words, both ways.

    det            v0=12 v1=40 v2=500 v3=999 dog v0=...        left, top, right, bottom in 1000 steps, then the class
    metadata       v1=10 v0=24 v1=0 v0=7                       a fact by number, then its value in steps
    color_palette  v1=2 v0=255 v0=0 v0=12 v0=7 ...             how many colours, then red, green, blue of each
Steps are counted from 0; boxes stand nearest to the upper left corner first.  Traps: a step is rounded half to even;
facts below or above their bounds are cut; a width or height is told in steps of 32 pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Thing

STEPS = 1000
FACTS = (
    "original_width", "original_height", "caption_n_chars", "caption_n_words", "caption_n_sentences", "n_humans",
    "n_sam_instances", "n_coco_instances", "coco_instance_diversity", "colorfulness", "brightness", "contrast",
    "saturation", "entropy", "walkability", "objectness", "semantic_diversity", "geometric_complexity",
    "occlusion_score", "watermark_score", "aesthetic_score",
)  # fmt: skip
SIDES, SIDE = ("original_width", "original_height"), 32
RANGES = {"colorfulness": (0, 150), "brightness": (0, 255), "contrast": (0, 127), "saturation": (0, 255),
          "entropy": (0, 10), "walkability": (0, 1), "objectness": (0, 1), "geometric_complexity": (0, 0.75),
          "occlusion_score": (0, 0.25)}  # fmt: skip
PARTS = 50
EDGES = {"watermark_score": (0.5,), "aesthetic_score": (4.5, 5.5)}
BOX = re.compile(r"v0=(\d+) v1=(\d+) v2=(\d+) v3=(\d+) ((?:(?!v\d=)\S+ ?)+)")
FACT = re.compile(r"v1=(\d+) v0=(\d+)")
COLOURS = 7


def box_text(things: Sequence[Thing]) -> str:
    """Boxes in 0..1 with their classes, nearest to the corner first.  Raises PromptError for one outside."""
    for thing in things:
        left, top, right, bottom = thing.box
        if not (0 <= left <= right <= 1 and 0 <= top <= bottom <= 1):
            raise PromptError(f"box of {thing.label!r}: expected left <= right and top <= bottom in 0 .. 1, found "
                              f"{thing.box}")  # fmt: skip
    return " ".join(
        " ".join([*(f"v{i}={round(edge * (STEPS - 1))}" for i, edge in enumerate(thing.box)), thing.label])
        for thing in nearest_first(things)
    )


def nearest_first(things: Sequence[Thing]) -> list[Thing]:
    """By the distance of their first corner from the picture's."""
    return sorted(things, key=lambda thing: thing.box[0] ** 2 + thing.box[1] ** 2)


def box_pieces(given: Any) -> list[str]:
    """Things, or {"label": ..., "box": [left, top, right, bottom] in 0..1}, as a text each.  Raises PromptError."""
    if not isinstance(given, list | tuple):
        raise PromptError(f"det: expected a list of boxes or a text, found {type(given).__name__.lower()}")
    things = [each if isinstance(each, Thing) else _thing(each) for each in given]
    return [box_text([thing]) for thing in nearest_first(things)]


def _thing(given: Any) -> Thing:
    box = given.get("box") if isinstance(given, Mapping) else None
    if not is_numbers(box, 4) or not isinstance(given.get("label"), str):
        raise PromptError('det: expected {"label": "cat", "box": [left, top, right, bottom]} of each thing')
    left, top, right, bottom = map(float, box)
    return Thing(label=given["label"], box=(left, top, right, bottom))


def is_numbers(given: Any, count: int) -> TypeGuard[Sequence[float]]:
    """Whether these are so many numbers in a row."""
    listed = isinstance(given, list | tuple) and len(given) == count
    return listed and all(isinstance(each, int | float) for each in given)


def palette_pieces(given: Any) -> list[str]:
    """Colours [[red, green, blue], ...] word by word.  Raises PromptError."""
    listed = given if isinstance(given, list | tuple) else [None]
    if not all(is_numbers(each, 3) for each in listed):
        raise PromptError("color_palette: expected [[red, green, blue], ...] or a text")
    return palette_text([tuple(each) for each in given]).split(" ")


def read_boxes(text: str) -> tuple[Thing, ...]:
    """What a sequence of boxes says; pieces that are no whole box are left out."""
    found = []
    for match in BOX.finditer(text):
        left, top, right, bottom = (int(match[i]) / (STEPS - 1) for i in range(1, 5))
        if left <= right <= 1 and top <= bottom <= 1:
            found.append(Thing(label=match[5].strip(), box=(left, top, right, bottom)))
    return tuple(found)


def fact_chunks(facts: Any) -> list[str]:
    """Each fact of a table as words, which are hidden together.  Raises PromptError for one that is not known."""
    if not isinstance(facts, Mapping) or not all(isinstance(each, int | float) for each in facts.values()):
        raise PromptError("metadata: expected a number for each fact, by name, or a text")
    if unknown := sorted(set(facts) - set(FACTS)):
        raise PromptError(f"metadata: {unknown[0]!r} is not one of {', '.join(FACTS)}")
    return [f"v1={FACTS.index(name)} v0={_step(name, value)}" for name, value in facts.items()]


def _step(name: str, value: float) -> int:
    if name in EDGES:
        return sum(value >= edge for edge in EDGES[name])
    if name in RANGES:
        low, high = RANGES[name]
        return int((min(max(value, low), high) - low) / (high - low) * (PARTS - 1))
    return int(max(0, min(value // SIDE if name in SIDES else value, STEPS - 1)))


def read_facts(text: str) -> dict[str, float]:
    """Facts by name: pixels of sides, the lower bound of a step of what was measured, else the number itself."""
    found: dict[str, float] = {}
    for number, step in ((int(a), int(b)) for a, b in FACT.findall(text)):
        if number < len(FACTS):
            name = FACTS[number]
            low, high = RANGES.get(name, (0.0, 0.0))
            scaled = low + step / (PARTS - 1) * (high - low) if name in RANGES else step
            found[name] = scaled * SIDE if name in SIDES else scaled
    return found


def palette_text(colours: Sequence[tuple[int, int, int]]) -> str:
    """Colours, 0 to 255.  Raises PromptError for none, for more than seven and for values outside."""
    if not 1 <= len(colours) <= COLOURS:
        raise PromptError(f"color_palette: expected 1 .. {COLOURS} colours, found {len(colours)}")
    values = [value for colour in colours for value in colour]
    if not all(0 <= value <= 255 for value in values):
        raise PromptError("color_palette: red, green and blue lie in 0 .. 255")
    return " ".join([f"v1={len(colours)}", *(f"v0={round(value)}" for value in values)])


def read_palette(text: str) -> tuple[tuple[int, int, int], ...]:
    """Whole colours of a sequence."""
    values = [int(value) for value in re.findall(r"v0=(\d+)", text)]
    whole = range(0, len(values) - 2, 3)
    return tuple((values[i], values[i + 1], values[i + 2]) for i in whole if max(values[i : i + 3]) <= 255)
