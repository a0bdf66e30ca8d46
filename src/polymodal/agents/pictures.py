"""Tools on pictures that need no model: edges by Canny, and plain changes named in a sentence.

    canny(picture) -> white edges on black        edited(picture, "make it grey and rotate it by 90") -> a picture

`edited` understands its own words and nothing else; a request for more is refused with the list, not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageFilter, ImageOps

from polymodal.agents.tools import Tool, ToolError
from polymodal.data.media import Image, Media

LOW, HIGH = 100.0, 200.0  # as Visual ChatGPT's Image2Canny
Picture = Pillow.Image
_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))  # to the neighbour along each of four directions of the gradient


def scaled(item: Media, side: int, multiple: int = 1) -> Media:
    """A picture whose longer side is `side`, both rounded to multiples of a number; other media as they are."""
    if not isinstance(item, Image):
        return item
    picture = item.picture
    ratio = min(side / picture.width, side / picture.height)
    sides = [max(round(round(each * ratio) / multiple), 1) * multiple for each in picture.size]
    return Image(picture.resize((sides[0], sides[1])))


def canny(image: Image, low: float = LOW, high: float = HIGH) -> Image:
    """Canny's edges: Sobel gradients, thinned, kept where they are strong or joined to strong ones."""
    grey = np.asarray(image.picture.convert("L"), dtype=np.float64)
    padded = np.pad(grey, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    size = np.abs(across) + np.abs(down)
    direction = np.round(np.arctan2(down, across) / (np.pi / 4)).astype(int) % 4
    around = np.pad(size, 1)
    kept = np.zeros_like(size, dtype=bool)
    for index, (y, x) in enumerate(_STEPS):
        before = around[1 - y : around.shape[0] - 1 - y, 1 - x : around.shape[1] - 1 - x]
        behind = around[1 + y : around.shape[0] - 1 + y, 1 + x : around.shape[1] - 1 + x]
        kept |= (direction == index) & (size > before) & (size >= behind)
    edges = _joined(kept & (size > high), kept & (size > low))
    return Image(np.repeat((255 * edges).astype(np.uint8)[..., None], 3, axis=2))


def _joined(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """The weak ones that touch strong ones, in steps of one pixel."""
    while True:
        wide = np.pad(strong, 1)
        grown = np.zeros_like(strong)
        for y in range(3):
            for x in range(3):
                grown |= wide[y : y + strong.shape[0], x : x + strong.shape[1]]
        grown &= weak
        if (grown == strong).all():
            return strong
        strong = grown


CHANGES: Mapping[str, Callable[[Picture], Picture]] = {
    r"gr[ea]y(scale)?|black.and.white": lambda picture: ImageOps.grayscale(picture).convert("RGB"),
    r"invert|negative": ImageOps.invert,
    r"blur\w*": lambda picture: picture.filter(ImageFilter.GaussianBlur(3)),
    r"sharp\w*": lambda picture: picture.filter(ImageFilter.SHARPEN),
    r"bright\w*|lighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.4),
    r"dark\w*": lambda picture: ImageEnhance.Brightness(picture).enhance(0.6),
    r"contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(1.5),
    r"mirror\w*|flip\w* (it )?horizontally": ImageOps.mirror,
    r"upside.down|flip\w* (it )?vertically": ImageOps.flip,
    r"poster\w*": lambda picture: ImageOps.posterize(picture, 3),
}
KNOWN = "grey, invert, blur, sharpen, brighter, darker, contrast, mirror, upside down, posterize, rotate by N"
_TURN = re.compile(r"(?:rotate|turn)\D{0,20}(\d{1,3})")


def edited(image: Image, text: str) -> Image:
    """The changes that a sentence names, one after another.  Raises ToolError where it names none."""
    picture, done = image.picture, False
    for words, change in CHANGES.items():
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE):
            picture, done = change(picture), True
    if turn := _TURN.search(text.lower()):
        picture, done = picture.rotate(-int(turn[1]), expand=True), True
    if not done:
        raise ToolError(f"expected one of {KNOWN}; found {text[:120]!r}")
    return Image(picture)


def picture_tools() -> tuple[Tool, ...]:
    """Both, under their tasks."""
    return (
        Tool(name="canny", task="canny-control", inputs={"image": "image"}, output="image", run=canny,
             model="Canny's edges", description="the edges of a picture"),
        Tool(name="edit", task="image-to-image", inputs={"image": "image", "text": "text"}, output="image", run=edited,
             model="picture operations", description=f"a picture changed as a sentence says: {KNOWN}"),
    )  # fmt: skip
