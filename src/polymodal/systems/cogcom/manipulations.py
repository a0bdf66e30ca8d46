"""The chain of manipulations: what an answer asks to be done with its picture, and the turn that follows from it.

    "... CROP_AND_ZOOMIN([[086,540,400,760]], 2) ..." -> the region, both sides twice as long -> the next turn's picture

The last manipulation of a turn counts; the others (GROUNDING, OCR, CALCULATE, COUNTING, LINE, one of the model's own)
are words alone, whose results the model writes itself.
Traps: boxes are thousandths of the picture of their own turn, which may be a region of a region; a region that cannot
be cut leaves the picture as it is, and the chain goes on; the enlargement is 2 whatever number the model writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pillow

from polymodal.checkpoints.cog_boxes import BOXES, things_in
from polymodal.data.limits import DEFAULT_LIMITS
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box, Grounding, Thing

LAUNCH = "Given a question, please solve the question step-by-step with a chain of manipulations. {QUESTION}"
"""Around a question, where a chain is wished for; training chose one of sixteen such texts, of which this is the
first."""
NEXT = "Based on this new image and the reasoning history:"
MOST = 10  # turns that one question may be followed by
ZOOM = 2
# From the beginning of a word and over a thousand signs at most: a question may be a million letters.
_CALL = re.compile(r"(?<![A-Za-z_])([A-Za-z_]+)\((.{0,1000}?)\)")
_BOX = re.compile(r"\[[\[\]\d,\s]+\]")
_NUMBER = re.compile(r"\d+")
_GIVEN = re.compile(r"([A-Za-z_]+)\($")
_SHOWN = re.compile(rf"(?<!\(){BOXES.pattern}")

Pixels = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Manipulation:
    """One call: its name, and what stands between its brackets."""

    name: str
    argument: str

    def __str__(self) -> str:
        return f"{self.name}({self.argument})"

    @property
    def makes_picture(self) -> bool:
        return "crop_and_zoomin" in self.name.lower()

    @property
    def box(self) -> tuple[int, ...] | None:
        """The first box of the argument in thousandths, None where there is none that can be read."""
        found = _BOX.search(self.argument)
        numbers = _NUMBER.findall(found[0].partition("]")[0]) if found else []
        return tuple(map(int, numbers[:4])) if len(numbers) >= 4 and max(map(len, numbers)) <= 4 else None


def read(text: str) -> tuple[Manipulation, ...]:
    """All manipulations of a text, in order."""
    return tuple(Manipulation(name=name, argument=argument) for name, argument in _CALL.findall(text))


def written(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """Boxes (left, top, right, bottom) in pixels of a picture of `size` (width, height) as training wrote them.

    Raises PromptError for none, or one that does not lie in the picture.
    """
    sides = (*size, *size)
    for box in boxes or [()]:
        fits = len(box) == 4 and all(0 <= edge <= side for edge, side in zip(box, sides, strict=True))
        if not fits or box[0] > box[2] or box[1] > box[3]:
            raise PromptError(f"box {tuple(box)}: expected (left, top, right, bottom) within {size[0]} x {size[1]}")
    shares = [[int(min(edge, side - 1) / side * 1000) for edge, side in zip(box, sides, strict=True)] for box in boxes]
    return f"[[{';'.join(','.join(f'{share:03d}' for share in box) for box in shares)}]]"


def region(manipulation: Manipulation, size: tuple[int, int]) -> Pixels | None:
    """What a manipulation cuts out of a picture of `size`, in whole pixels; None for nothing that can be cut out."""
    box = manipulation.box
    if box is None or max(box) > 1000:
        return None
    left, top, right, bottom = (round(edge / 1000 * side) for edge, side in zip(box, (*size, *size), strict=True))
    return (left, top, right, bottom) if left < right and top < bottom else None


def cut(picture: Pillow.Image, box: Pixels | None) -> Pillow.Image:
    """The region with both sides twice as long, or as it is where that would be more pixels than a picture may have."""
    if box is None:
        return picture
    found = picture.crop(box)
    if found.width * found.height * ZOOM**2 > DEFAULT_LIMITS.pixels:
        return found
    return found.resize((found.width * ZOOM, found.height * ZOOM), Pillow.Resampling.BICUBIC)


def next_turn(messages: Sequence[Message], answer: str) -> Message | None:
    """The turn that an answer to `messages` asks for: the region it names and NEXT; None where the chain ends.

    The words of the question count too, as in the published loop.
    """
    last = messages[-1]
    pictures = [part for part in last.media if isinstance(part, Image)]
    asked = read(f"{last.text} {answer}")
    chained = 0
    while chained < len(messages[::-2]) and messages[::-2][chained].text == NEXT:
        chained += 1
    if not asked or not asked[-1].makes_picture or not pictures or chained >= MOST:
        return None
    picture = pictures[-1].picture
    new = Image(cut(picture, region(asked[-1], picture.size)))
    return Message(role="user", parts=(new, Text(NEXT)))


def turns_of(question: Message, answer: str) -> tuple[Message, ...]:
    """A question and an answer that holds several turns, one by one, with the regions cut out again."""
    made = [question]
    for number, said in enumerate(answer.split(NEXT, MOST)):
        if number and (follow := next_turn(made[:-1], made[-1].text)) is not None:
            made.append(follow)
        elif number:
            made[-1] = Message(role="assistant", parts=(Text(f"{made[-1].text} {NEXT} {said.strip()}"),))
            continue
        made.append(Message(role="assistant", parts=(Text(said.strip()),)))
    return tuple(made)


def grounded(answer: str, pictures: Sequence[Any]) -> Grounding:
    """An answer without its boxes, but those that manipulations are given, and what they are of, or the manipulation.

    Boxes lie in the picture that was asked about, whatever was cut out of it on the way.
    """
    plain = _SHOWN.sub("", answer)
    if not pictures:
        return Grounding(text=plain, things=())
    question = Message(role="user", parts=(pictures[-1],))
    things: list[Thing] = []
    window: Box = (0.0, 0.0, 1.0, 1.0)
    turns = turns_of(question, answer)
    for asked, said in zip(turns[::2], turns[1::2], strict=True):
        for each in things_in(said.text):
            given = _GIVEN.search(each.label)
            things.append(Thing(label=given[1] if given else each.label, box=_inside(window, each.box)))
        calls = read(f"{asked.text} {said.text}")
        if calls and calls[-1].makes_picture:
            width, height = asked.media[-1].picture.size  # type: ignore[attr-defined]
            left, top, right, bottom = region(calls[-1], (width, height)) or (0, 0, width, height)
            window = _inside(window, (left / width, top / height, right / width, bottom / height))
    return Grounding(text=plain, things=tuple(things))


def _inside(window: Box, box: Box) -> Box:
    """A box in shares of a window -> in shares of what the window is in."""
    width, height = window[2] - window[0], window[3] - window[1]
    return (window[0] + box[0] * width, window[1] + box[1] * height,
            window[0] + box[2] * width, window[1] + box[3] * height)  # fmt: skip
