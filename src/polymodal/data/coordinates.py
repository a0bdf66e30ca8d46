"""Boxes and points written as numbers of a text, as Shikra, SPHINX, GroundingGPT and Ferret do.

    (left, top, right, bottom) in 0..1 of the picture  <->  "[0.100,0.325,0.500,0.575]"
    several boxes of one phrase                         <->  "[0.100,0.325,0.500,0.575;0.200,0.325,0.300,0.410]"

Traps: systems that pad pictures to a square count in that square, so a box needs the size of its picture on the way in
and out; what a model says may lie in the border and is cut at the picture's edge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.errors import PromptError

Place = tuple[float, ...]
"""A box (left, top, right, bottom) or a point (x, y)."""
Size = tuple[int, int]
"""(width, height) of a picture in pixels."""


@dataclass(frozen=True, kw_only=True)
class CoordinateText:
    """How a system writes places.  comma: between the numbers.  decimals: as many in every number.  scale: the number
    that stands for a whole side.  digits: whole numbers have so many, with zeros in front, and no more (CogAgent).
    squared: they count in the picture padded to a square, the picture in its middle."""

    comma: str = ","
    decimals: int = 3
    scale: int = 1
    digits: int = 0
    squared: bool = True

    def write(self, places: Sequence[Place], size: Size) -> str:
        """`[...]` for the boxes or the points of one phrase; PromptError for one that does not lie in the picture."""
        if not places or len({len(place) for place in places}) != 1:
            raise PromptError(f"places: expected boxes alone or points alone, at least one, found {list(places)}")
        return f"[{';'.join(self._written(place, size) for place in places)}]"

    def read(self, text: str, size: Size, numbers: int = 4) -> list[tuple[Place, ...]]:
        """The places of every `[...]` in a text, in order; numbers: 4 for boxes, 2 for points."""
        number = r"\d(?:\.\d*)?" if self.scale == 1 else r"\d+"
        place = number + rf"{re.escape(self.comma)}{number}" * (numbers - 1)
        groups = re.findall(rf"\[({place}(?:;{place})*)\]", text)
        return [tuple(self._place(each, size) for each in group.split(";")) for group in groups]

    def _written(self, place: Place, size: Size) -> str:
        low, high = place[:2], place[-2:]
        inside = all(0 <= each <= 1 for each in place) and len(place) in (2, 4)
        if not inside or any(a > b for a, b in zip(low, high, strict=True)):
            raise PromptError(
                f"place {tuple(place)}: expected a point (x, y) or a box (left, top, right, bottom) with left <= right "
                "and top <= bottom, all within 0..1 of the picture"
            )
        spans, shifts = self._frame(size)
        shares = ((x * size[i % 2] + shifts[i % 2]) / spans[i % 2] for i, x in enumerate(place))
        if self.decimals:
            return self.comma.join(f"{share * self.scale:.{self.decimals}f}" for share in shares)
        most = 10**self.digits - 1 if self.digits else self.scale
        return self.comma.join(f"{min(int(share * self.scale), most):0{self.digits or 1}}" for share in shares)

    def _place(self, text: str, size: Size) -> Place:
        spans, shifts = self._frame(size)
        shares = (float(number) / self.scale for number in text.split(self.comma))
        found = ((x * spans[i % 2] - shifts[i % 2]) / size[i % 2] for i, x in enumerate(shares))
        return tuple(min(max(x, 0.0), 1.0) for x in found)

    def _frame(self, size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) of what the numbers count in, and where the picture's corner lies in it, in pixels."""
        if not self.squared:
            return size, (0, 0)
        side = max(size)
        return (side, side), ((side - size[0]) // 2, (side - size[1]) // 2)
