"""A scene as SVG: text that can be selected and searched, nothing from outside, readable on light and dark pages.

Every shape carries its light colour as an attribute, which every reader understands; a style sheet replaces them where
the reader prefers dark pages.  `textLength` holds each text to the width it was measured with, whatever the font.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from polymodal.diagram.scene import Box, Line, Scene, Text
from polymodal.diagram.theme import COLOURS, name_of
from polymodal.printable import one_line

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
BEND = 7.0


def to_svg(scene: Scene) -> str:
    """A standalone document; every word in it is escaped."""
    used: set[tuple[str, str]] = set()
    body = [_shape(shape, used) for shape in scene.shapes]
    page = _paint("fill", "page", used)
    width, height = _number(scene.width), _number(scene.height)
    heads = "".join(
        f'<marker id="head-{name}" markerWidth="9" markerHeight="8" refX="7.5" refY="4" orient="auto" '
        f'markerUnits="userSpaceOnUse"><path d="M0,0.5 L8,4 L0,7.5 z" {_paint("fill", name, used)}/></marker>'
        for name in sorted({name_of(each.colour) for each in scene.shapes if isinstance(each, Line) and each.arrow})
    )
    dark = "".join(f".{kind[0]}-{name}{{{kind}:{COLOURS[name][1]}}}" for kind, name in sorted(used))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" font-family={quoteattr(FONT)}>',
            f"<title>{escape(one_line(scene.title))}</title>",
            f"<desc>{escape(one_line(scene.description))}</desc>",
            f"<style>@media (prefers-color-scheme: dark){{{dark}}}</style>",
            f"<defs>{heads}</defs>",
            f'<rect width="{width}" height="{height}" rx="12" {page}/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _shape(shape: Box | Text | Line, used: set[tuple[str, str]]) -> str:
    if isinstance(shape, Box):
        return _box(shape, used)
    return _text(shape, used) if isinstance(shape, Text) else _line(shape, used)


def _paint(kind: str, colour: str, used: set[tuple[str, str]]) -> str:
    """A colour as an attribute, and its class for the dark style sheet."""
    name = name_of(colour)
    used.add((kind, name))
    return f'{kind}="{COLOURS[name][0]}" class="{kind[0]}-{name}"'


def _both(fill: str, stroke: str, used: set[tuple[str, str]]) -> str:
    """Fill and outline with both classes."""
    names = name_of(fill), name_of(stroke)
    used |= {("fill", names[0]), ("stroke", names[1])}
    colours = f'fill="{COLOURS[names[0]][0]}" stroke="{COLOURS[names[1]][0]}"'
    return f'{colours} class="f-{names[0]} s-{names[1]}"'


def _box(box: Box, used: set[tuple[str, str]]) -> str:
    frame = f'x="{_number(box.x)}" y="{_number(box.y)}" width="{_number(box.width)}" height="{_number(box.height)}"'
    look = _both(box.fill, box.stroke, used) if box.stroke else _paint("fill", box.fill, used)
    dash = ' stroke-dasharray="5 4"' if box.dashed else ""
    thick = f' stroke-width="{box.thickness}"' if box.stroke else ""
    return f'<rect {frame} rx="{_number(box.radius)}" {look}{thick}{dash}/>'


def _text(text: Text, used: set[tuple[str, str]]) -> str:
    position = f'x="{_number(text.x)}" y="{_number(text.y)}" font-size="{_number(text.size)}"'
    anchor = ' text-anchor="middle"' if text.anchor == "middle" else ""
    bold = ' font-weight="600"' if text.bold else ""
    fit = f' textLength="{_number(text.width)}" lengthAdjust="spacingAndGlyphs"' if text.text else ""
    return (
        f"<text {position}{anchor}{bold}{fit} {_paint('fill', text.colour, used)}>{escape(one_line(text.text))}</text>"
    )


def _line(line: Line, used: set[tuple[str, str]]) -> str:
    look = _paint("stroke", line.colour, used)
    head = f' marker-end="url(#head-{name_of(line.colour)})"' if line.arrow else ""
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    return f'<path d="{_path(line.points)}" fill="none" {look} stroke-width="{line.thickness}"{dash}{head}/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Straight lines with round corners."""
    parts = [f"M{_number(points[0][0])},{_number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        first, second = _towards(corner, before), _towards(corner, after)
        parts.append(f"L{_number(first[0])},{_number(first[1])} Q{_number(corner[0])},{_number(corner[1])} "
                     f"{_number(second[0])},{_number(second[1])}")  # fmt: skip
    parts.append(f"L{_number(points[-1][0])},{_number(points[-1][1])}")
    return " ".join(parts)


def _towards(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The point at most a bend's length from the corner."""
    length = max(abs(other[0] - corner[0]) + abs(other[1] - corner[1]), 1e-6)
    share = min(BEND, length / 2) / length
    return corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
