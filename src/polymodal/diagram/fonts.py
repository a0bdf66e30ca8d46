"""How wide texts are: by the metrics of the font that the PNG is drawn in.

The SVG gives every text this width (`textLength`), so that it stays in its box in whatever font a reader has.
Traps: the font has the ASCII letters and little else; what it lacks counts as one em, which is what the widest letters
of other scripts take.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

BOLD = 1.07
"""Width of bold letters in terms of plain ones."""
LINE = 1.3
"""Height of a line in terms of the font size."""


@lru_cache(maxsize=64)
def font(size: int) -> FreeTypeFont:
    """The scalable font that Pillow carries."""
    from PIL import ImageFont

    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


SCALE = 2
"""Pixels of the PNG for each unit of the picture; the font rounds the width of its letters to whole pixels."""


@lru_cache(maxsize=4096)
def _letter(letter: str, size: float) -> float:
    """Advance of one letter: by its outline, or by its pixels where those are wider."""
    if not letter.isascii():
        return size
    pixels = font(round(size * SCALE))
    return max(font(200).getlength(letter) * size / 200, pixels.getlength(letter) / SCALE)


@lru_cache(maxsize=4096)
def width(text: str, size: float, bold: bool = False) -> float:
    """Width of a line of text; kerning, which only makes it shorter, is left out."""
    return sum(_letter(letter, size) for letter in text) * (BOLD if bold else 1.0)


def wrap(text: str, size: float, max_width: float, bold: bool = False) -> list[str]:
    """Lines no wider than `max_width`: broken at spaces, inside a word only where it does not fit by itself."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if width(longer, size, bold) <= max_width:
            line = longer
            continue
        if line:
            lines.append(line)
        while width(word, size, bold) > max_width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or width(word[:n], size, bold) <= max_width)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines
