"""A scene as PNG, drawn by Pillow from the same coordinates as the SVG, at twice the size, in the light colours."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING

from polymodal.diagram.fonts import SCALE, font
from polymodal.diagram.scene import Box, Line, Scene, Text
from polymodal.diagram.theme import COLOURS, name_of

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

MOST_PIXELS = 120_000_000
"""Larger pictures are drawn at a smaller scale."""


def to_png(scene: Scene) -> bytes:
    """The bytes of a PNG file."""
    from PIL import Image, ImageDraw

    scale = SCALE if scene.width * scene.height * SCALE**2 <= MOST_PIXELS else 1
    image = Image.new("RGB", (round(scene.width * scale), round(scene.height * scale)), _colour("page"))
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        if isinstance(shape, Box):
            _box(draw, shape, scale)
        elif isinstance(shape, Text):
            _text(draw, shape, scale)
        else:
            _line(draw, shape, scale)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _colour(name: str) -> str:
    return COLOURS[name_of(name)][0]


def _box(draw: ImageDraw, box: Box, scale: int) -> None:
    frame = tuple(round(each * scale) for each in (box.x, box.y, box.right, box.bottom))
    if frame[2] <= frame[0] or frame[3] <= frame[1]:
        return
    radius = min(box.radius * scale, (frame[2] - frame[0]) / 2, (frame[3] - frame[1]) / 2)
    thickness = max(round(box.thickness * scale), 1)
    if not box.dashed:
        draw.rounded_rectangle(frame, radius, fill=_colour(box.fill), width=thickness,
                               outline=_colour(box.stroke) if box.stroke else None)  # fmt: skip
        return
    draw.rounded_rectangle(frame, radius, fill=_colour(box.fill))
    left, top, right, bottom = frame
    inset = round(radius)
    for y in (top, bottom):
        _dashes(draw, (left + inset, y), (right - inset, y), box.stroke, thickness, scale)
    for x in (left, right):
        _dashes(draw, (x, top + inset), (x, bottom - inset), box.stroke, thickness, scale)
    colour, around = _colour(box.stroke), 2 * inset
    for x, y, start in ((left, top, 180), (right - around, top, 270), (right - around, bottom - around, 0),
                        (left, bottom - around, 90)):  # fmt: skip
        draw.arc((x, y, x + around, y + around), start, start + 90, fill=colour, width=thickness)


def _text(draw: ImageDraw, text: Text, scale: int) -> None:
    letters = font(round(text.size * scale))
    length = letters.getlength(text.text)
    x = text.x * scale - length / 2 if text.anchor == "middle" else text.x * scale
    stroke = 0.4 * scale / 2 if text.bold else 0
    draw.text((x, text.y * scale), text.text, font=letters, fill=_colour(text.colour), anchor="ls",
              stroke_width=stroke)  # fmt: skip


def _line(draw: ImageDraw, line: Line, scale: int) -> None:
    points = [(x * scale, y * scale) for x, y in line.points]
    thickness, colour = max(round(line.thickness * scale), 1), _colour(line.colour)
    end = points[-1]
    if line.arrow:
        end = _head(draw, points[-2], points[-1], colour, scale)
    path = [*points[:-1], end]
    for start, stop in pairwise(path):
        if line.dashed:
            _dashes(draw, start, stop, line.colour, thickness, scale)
        else:
            draw.line((start, stop), fill=colour, width=thickness)
    for x, y in path[1:-1]:
        half = thickness / 2
        draw.ellipse((x - half, y - half, x + half, y + half), fill=colour)


def _head(
    draw: ImageDraw, before: tuple[float, float], tip: tuple[float, float], colour: str, scale: int
) -> tuple[float, float]:
    """The head of an arrow; returns where its line ends."""
    length = max(((tip[0] - before[0]) ** 2 + (tip[1] - before[1]) ** 2) ** 0.5, 1e-6)
    dx, dy = (tip[0] - before[0]) / length, (tip[1] - before[1]) / length
    long, half = 8 * scale, 3.5 * scale
    back = tip[0] - dx * long, tip[1] - dy * long
    draw.polygon((tip, (back[0] - dy * half, back[1] + dx * half), (back[0] + dy * half, back[1] - dx * half)),
                 fill=colour)  # fmt: skip
    return back


def _dashes(
    draw: ImageDraw, start: tuple[float, float], stop: tuple[float, float], colour: str, thickness: int, scale: int
) -> None:
    length = max(((stop[0] - start[0]) ** 2 + (stop[1] - start[1]) ** 2) ** 0.5, 1e-6)
    dx, dy = (stop[0] - start[0]) / length, (stop[1] - start[1]) / length
    at, dash, gap = 0.0, 5 * scale, 4 * scale
    while at < length:
        end = min(at + dash, length)
        draw.line(((start[0] + dx * at, start[1] + dy * at), (start[0] + dx * end, start[1] + dy * end)),
                  fill=_colour(colour), width=thickness)  # fmt: skip
        at = end + gap
