"""Layouts as VisorGPT writes them: boxes, joints of people, outlines, as numbers on a canvas of 512 x 512.

Wish: kind; data; size; number of things; number of joints; names      -> the published prompt
read(text) -> things      write(things) -> text, with names inside the brackets (the order b)

[ person xmin 10 ymin 20 xmax 200 ymax 400 ]   [ person a 10 20 b 0 0 ... ]   [ cup m0 10 20 m1 ... ]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.errors import PromptError

SIDE = 512
KINDS = {"box": 16, "key point": 16, "mask": 8}  # the most things of a kind, as the published demo bounds them
DATA, SIZES = ("multiple instances", "object centric"), ("small", "medium", "large", "random")
JOINTS = {"box": (0,), "mask": (0,), "key point": (14, 18)}
LETTERS = "abcdefghijklmnopqrstuvw"
EXAMPLE = "box; multiple instances; large; 2; 0; person, frisbee"
_PAIRS = {"key point": r"[a-w] \d+ \d+", "mask": r"m\d+ \d+ \d+"}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a layout is asked with."""

    kind: str
    data: str
    size: str
    count: int
    joints: int
    names: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Wish:
        """`EXAMPLE` and its like.  Raises PromptError that names the field, what was expected and what was found."""
        fields = [field.strip() for field in text.lower().split(";")]
        if len(fields) < 6:
            raise PromptError(f"layout: expected six fields, as in {EXAMPLE!r}; found {len(fields)}")
        kind, data, size, count, joints, *names = fields
        named = tuple(name.strip(" []") for each in names for name in each.split(",") if name.strip(" []"))
        for what, found, known in (("kind", kind, tuple(KINDS)), ("data", data, DATA), ("size", size, SIZES)):
            if found not in known:
                raise PromptError(f"layout: {what}: expected {', '.join(known)}, found {found!r}")
        if not count.isdecimal() or not 1 <= int(count) <= KINDS[kind]:
            raise PromptError(f"layout: number of things: expected 1 to {KINDS[kind]} of kind {kind}, found {count!r}")
        if not joints.isdecimal() or int(joints) not in JOINTS[kind]:
            expected = " or ".join(map(str, JOINTS[kind]))
            raise PromptError(f"layout: number of joints: expected {expected} for kind {kind}, found {joints!r}")
        if not 1 <= len(named) <= int(count):
            raise PromptError(f"layout: names: expected 1 to {count}, as many as things at most, found {len(named)}")
        return cls(kind=kind, data=data, size=size, count=int(count), joints=int(joints), names=named)

    @property
    def prompt(self) -> str:
        """As the published demo writes it."""
        head = "; ".join((self.kind, self.data, self.size, str(self.count), str(self.joints)))
        return f"{head} ; [{self.names[0]}" if self.kind == "key point" else f"{head}; {', '.join(self.names)}"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """points: two corners of a box, or joints in order ((0, 0): not seen), or the outline."""

    name: str
    kind: str
    points: tuple[tuple[int, int], ...]


def read(text: str) -> tuple[Thing, ...]:
    """The things of a layout, prompt and answer; what is not whole is left out.

    Raises PromptError for a text of another form.
    """
    fields = [field.strip() for field in text.split(";")]
    kind = fields[0].removeprefix("[CLS]").strip()
    if kind not in KINDS or len(fields) < 6:
        raise PromptError(f"layout: expected a text like {EXAMPLE!r} with places behind it, found {text[:60]!r}")
    ahead = [] if "[" in fields[5] else [name.strip() for name in fields[5].split(",")]
    found = []
    for index, inside in enumerate(re.findall(r"\[([^\[\]]*)\]", ";".join(fields[5:]))):
        thing = _thing(kind, inside, ahead[index] if index < len(ahead) else "")
        if thing is not None:
            found.append(thing)
    return tuple(found)


def _thing(kind: str, inside: str, name: str) -> Thing | None:
    """One bracket; name: where the names stand in front of all."""
    words = " ".join(inside.split())
    if kind == "box":
        match = re.fullmatch(r"(.*?) ?xmin (\d+) ymin (\d+) xmax (\d+) ymax (\d+)", words)
        if match is None:
            return None
        left, top, right, bottom = map(int, match.groups()[1:])
        points: tuple[tuple[int, int], ...] = ((left, top), (right, bottom))
    else:
        match = re.fullmatch(rf"(.*?) ?((?:{_PAIRS[kind]} ?)+)", words)
        if match is None:
            return None
        points = tuple((int(x), int(y)) for x, y in re.findall(r"[a-w]?m?\d* (\d+) (\d+)", f" {match[2]}"))
    named = match[1].strip() or name
    inner = all(0 <= value < SIDE for point in points for value in point)
    return Thing(name=named, kind=kind, points=points) if named and inner else None


def write(wish: Wish, things: Sequence[Thing]) -> str:
    """The layout in the order b: the published header and a bracket for each thing."""
    head = "; ".join((wish.kind, wish.data, wish.size, str(len(things)), str(wish.joints)))
    return f"{head}; " + " ".join(f"[ {thing.name} {_places(thing)} ]" for thing in things)


def _places(thing: Thing) -> str:
    if thing.kind == "box":
        (left, top), (right, bottom) = thing.points
        return f"xmin {left} ymin {top} xmax {right} ymax {bottom}"
    marks = LETTERS if thing.kind == "key point" else [f"m{index}" for index in range(len(thing.points))]
    return " ".join(f"{mark} {x} {y}" for mark, (x, y) in zip(marks, thing.points, strict=False))
