"""`show --svg`: the same drawing as a picture.  Columns are kinds of module, lanes are modalities.

image ──▶ [encoder] ──▶ [connector] ──▶ ┐
                                        [backbone] ──▶ text
audio ──▶ [encoder] ──▶ [connector] ──▶ ┘
"""

from __future__ import annotations

from html import escape
from itertools import pairwise

from polymodal.cli.drawing import Box, Drawing
from polymodal.cli.output import human_count

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN, HEAD = 230, 96, 90, 28, 24, 64
LABEL_WIDTH = 64
COLOURS = {
    "encoder": "#dbeafe",
    "connector": "#dcfce7",
    "backbone": "#fef3c7",
    "output connector": "#dcfce7",
    "generator": "#fae8ff",
    "tool": "#f1f5f9",
}
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#111}.name{font-weight:600}.small{font-size:11px;fill:#444}"
    ".title{font-size:18px;font-weight:700}rect{stroke:#444;stroke-width:1}path{stroke:#444;fill:none}"
)


def render_svg(drawing: Drawing) -> str:
    """A standalone SVG document; every word in it is escaped."""
    slots = drawing.slots()
    column = {slot: MARGIN + LABEL_WIDTH + i * (BOX_WIDTH + GAP_X) for i, slot in enumerate(slots)}
    row, bottom = rows(drawing)
    width = MARGIN * 2 + LABEL_WIDTH * 2 + len(slots) * (BOX_WIDTH + GAP_X) - GAP_X
    name = f"{drawing.system.id}:{drawing.variant.name}"
    shapes = [
        text(MARGIN, 30, name, "title"),
        text(MARGIN, 52, f"{human_count(drawing.parameters)} parameters. {drawing.system.headline}", "small"),
    ]
    for slot in slots:
        if slot == "backbone":
            # It belongs to every lane, so it is as high as all of them.
            boxes = drawing.at(slot)
            height = (bottom - HEAD - MARGIN - GAP_Y * (len(boxes) - 1)) // len(boxes)
            for i, box in enumerate(boxes):
                shapes += rectangle(box, column[slot], HEAD + MARGIN + i * (height + GAP_Y), height)
            continue
        for lane, top in row.items():
            for i, box in enumerate(drawing.at(slot, lane)):
                shapes += rectangle(box, column[slot], top + i * (BOX_HEIGHT + GAP_Y), BOX_HEIGHT)
    shapes += arrows(drawing, column, row)
    return document(width, bottom + MARGIN, shapes)


def rows(drawing: Drawing) -> tuple[dict[str, int], int]:
    """Where each lane begins, and the bottom of the last; a lane is as high as its fullest column."""
    top, tops = HEAD + MARGIN, {}
    for lane in drawing.lanes() or ["text"]:
        tops[lane] = top
        fullest = max((len(drawing.at(slot, lane)) for slot in drawing.slots() if slot != "backbone"), default=1)
        top += max(fullest, 1) * (BOX_HEIGHT + GAP_Y)
    return tops, top - GAP_Y


def document(width: int, height: int, shapes: list[str]) -> str:
    """The shapes inside an `svg` element with the style and the arrow head."""
    arrow = '<marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    head = f'<defs>{arrow}<path d="M0,0 L8,4 L0,8 z" style="fill:#444"/></marker></defs>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    background = '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>'
    return "\n".join([opening, f"<style>{STYLE}</style>", head, background, *shapes, "</svg>", ""])


def text(x: int, y: int, words: str, kind: str = "", room: int | None = None) -> str:
    """Words at a place; where `room` is given and they need more, they are squeezed into it."""
    letter = 6.6 if kind == "small" else 8.0
    tight = room is not None and len(words) * letter > room
    fit = f' textLength="{room}" lengthAdjust="spacingAndGlyphs"' if tight else ""
    return f'<text x="{x}" y="{y}" class="{kind}"{fit}>{escape(words)}</text>'


def rectangle(box: Box, x: int, y: int, height: int) -> list[str]:
    """One module: what it is, its name, parameters and shapes."""
    part, room = box.part, BOX_WIDTH - 20
    size = f'x="{x}" y="{y}" width="{BOX_WIDTH}" height="{height}" rx="8"'
    return [
        f'<rect {size} style="fill:{COLOURS[part.slot]}"/>',
        text(x + 10, y + 20, part.slot, "small"),
        text(x + 10, y + 40, part.name, "name", room),
        text(x + 10, y + 60, f"{human_count(box.parameters)} parameters", "small", room),
        text(x + 10, y + 80, f"{part.input} -> {part.output}", "small", room),
    ]


def arrows(drawing: Drawing, column: dict[str, int], row: dict[str, int]) -> list[str]:
    """From each lane's name through its modules; a lane ends at the backbone or leaves it."""
    shapes = []
    for lane, y in row.items():
        middle = y + BOX_HEIGHT // 2
        stops = [slot for slot in column if slot == "backbone" or drawing.at(slot, lane)]
        if not stops:  # an agent may draw nothing
            continue
        if stops[0] != "backbone":
            shapes.append(text(MARGIN, middle + 4, lane))
            shapes.append(line(MARGIN + LABEL_WIDTH - 16, column[stops[0]], middle))
        for here, following in pairwise(stops):
            end = column[here] + BOX_WIDTH
            shapes.append(line(end, column[following], middle))
            if here != "backbone" and (tokens := drawing.at(here, lane)[0].part.tokens) is not None:
                shapes.append(text(end + 6, middle - 8, f"{tokens} tokens", "small", GAP_X - 14))
        if stops[-1] != "backbone":
            end = column[stops[-1]] + BOX_WIDTH
            shapes += [line(end, end + 24, middle), text(end + 30, middle + 4, lane)]
    if "backbone" in column and "text" in drawing.system.outputs:
        end, first = column["backbone"] + BOX_WIDTH, min(row.values())
        shapes += [line(end, end + 24, first + 20), text(end + 30, first + 24, "text")]
    return shapes


def line(start: int, end: int, y: int) -> str:
    return f'<path d="M{start},{y} L{end},{y}" marker-end="url(#a)"/>'
