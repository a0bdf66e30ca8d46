"""The cells of an input sequence: runs of text, items with a mark for each position, text in front of every item."""

from __future__ import annotations

from dataclasses import replace

from polymodal.diagram.fonts import LINE, wrap
from polymodal.diagram.graph import Cell, Node
from polymodal.diagram.painting import GAP, PAD, SEQUENCE_WIDTH, WORDS, Painted, add_lines
from polymodal.diagram.scene import Box

SQUARE, CELL_PAD, THIN = 9, 8, 20


def interleaved(node: Node) -> bool:
    """Whether text stands in front of every item: where text ends the sequence and is not all of it."""
    return len(node.cells) > 1 and node.cells[-1].modality == "text"


def cell_height(cell: Cell) -> float:
    lines = len(wrap(cell.text, WORDS, SEQUENCE_WIDTH - 2 * CELL_PAD))
    return 2 * CELL_PAD + lines * WORDS * LINE + SQUARE


def cell_mark(modality: str, discrete: bool) -> Box:
    """One position of the sequence: a square for an id, a disc for a feature."""
    return Box(x=0, y=0, width=SQUARE, height=SQUARE, fill="plain" if discrete else modality, stroke=modality,
               radius=2 if discrete else SQUARE / 2, role="mark")  # fmt: skip


def paint_cells(painted: Painted, node: Node, box: Box, top: float, centres: dict[str, float]) -> None:
    """The cells from `top` on, beside their lanes; where text is interleaved, with thin cells of it before items."""
    x, text_width = box.x + PAD, box.width - 2 * PAD
    for cell in node.cells:
        height = cell_height(cell)
        y = centres[cell.lane] - height / 2
        bottom = y + height
        if interleaved(node) and cell is not node.cells[-1]:
            _thin_cell(painted, x, top, text_width, y - top - GAP)
        else:
            y = top
        if cell is node.cells[-1]:
            bottom = box.bottom - PAD
        frame = Box(x=x, y=y, width=text_width, height=bottom - y, fill=f"tint-{cell.modality}", stroke=cell.modality,
                    radius=6, role="cell", key=cell.key)  # fmt: skip
        painted.shapes.append(frame)
        painted.frames[cell.key] = frame
        inside = centres[cell.lane] - height / 2 + CELL_PAD - 3
        below = add_lines(painted.shapes, wrap(cell.text, WORDS, SEQUENCE_WIDTH - 2 * CELL_PAD), x + CELL_PAD, inside,
                       WORDS)  # fmt: skip
        fits = int((text_width - 2 * CELL_PAD) // (SQUARE + 3))
        mark = cell_mark(cell.modality, cell.discrete)
        for index in range(fits if cell.count is None else min(fits, cell.count)):
            dot = replace(mark, x=x + CELL_PAD + index * (SQUARE + 3), y=below + 3)
            more = index == fits - 1 and (cell.count is None or cell.count > fits)
            painted.shapes += _small_dots(dot) if more else [dot]
        top = bottom + GAP


def _small_dots(mark: Box) -> list[Box]:
    """And so on: three small dots in the place of a mark."""
    return [Box(x=mark.x + 1 + 3.5 * index, y=mark.y + SQUARE / 2 - 1, width=2, height=2, fill=mark.stroke, radius=1,
                role="mark") for index in range(3)]  # fmt: skip


def _thin_cell(painted: Painted, x: float, y: float, text_width: float, height: float) -> None:
    """More text between two items; nothing where there is no space for it."""
    if height < THIN - 1:
        return
    painted.shapes.append(Box(x=x, y=y, width=text_width, height=height, fill="tint-text", stroke="text", radius=6,
                              role="cell"))  # fmt: skip
    add_lines(painted.shapes, ["text"], x + CELL_PAD, y + (height - WORDS * LINE) / 2, WORDS, colour="muted")
