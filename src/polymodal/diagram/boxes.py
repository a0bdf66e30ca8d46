"""How big each node is, and the shapes inside it once its rectangle is known.

`measure(node)` gives the least width and height; `paint(node, frame)` gives the shapes, and the frames of everything
that an arrow may end at: the node, its rows and its cells.
"""

from __future__ import annotations

from polymodal.diagram.cells import THIN, cell_height, interleaved, paint_cells
from polymodal.diagram.fonts import LINE, width, wrap
from polymodal.diagram.graph import Node, State
from polymodal.diagram.painting import (
    BACKBONE_WIDTH,
    GAP,
    PAD,
    SEQUENCE_WIDTH,
    SMALL,
    STATE_WORDS,
    TITLE,
    WORDS,
    Painted,
    add_lines,
)
from polymodal.diagram.rows import group_height, paint_group
from polymodal.diagram.scene import Box, Text

INNER = {"encoder": 168, "connector": 168, "head": 150, "generator": 160, "tool": 140, "input": 84, "output": 104,
         "space": 190, "sequence": SEQUENCE_WIDTH, "backbone": BACKBONE_WIDTH}  # fmt: skip
"""Width of the text inside a node, by kind."""
FIXED = ("sequence", "backbone")
MATRIX, MATRIX_HEIGHT = 6, 96.0
"""Rows and columns of the drawn similarity matrix, and the height it takes with its axes."""


def measure(node: Node) -> tuple[float, float]:
    """Least width and height of a node."""
    text_width = INNER[node.kind]
    if node.kind == "backbone":
        return text_width + 2 * PAD, _header_height(node) + sum(
            group_height(group) + GAP for group in node.groups
        ) + PAD
    if node.kind == "sequence":
        cells = sum(cell_height(cell) + GAP for cell in node.cells)
        return text_width + 2 * PAD, headroom(node) + cells
    widest = max((width(line, TITLE, bold=True) for line in wrap(node.title, TITLE, text_width, bold=True)), default=0)
    for line in node.lines:
        widest = max(widest, *(width(each, WORDS) for each in wrap(line, WORDS, text_width)))
    height = _words_height(node, text_width) + (MATRIX_HEIGHT if node.matrix else 0)
    return max(widest, 40) + 2 * PAD, height


def headroom(node: Node) -> float:
    """How far a sequence begins above its first lane: its header, and the text in front of the first item."""
    return _header_height(node) + (THIN + GAP if interleaved(node) else 0)


def _header_height(node: Node) -> float:
    return _words_height(node, INNER[node.kind]) - PAD + 6


def _words_height(node: Node, text_width: float) -> float:
    title = len(wrap(node.title, TITLE, text_width, bold=True)) * TITLE * LINE
    words = sum(len(wrap(line, WORDS, text_width)) for line in node.lines) * WORDS * LINE
    state = SMALL * LINE + 4 if STATE_WORDS.get(node.state) and not node.groups else 0
    return 2 * PAD - 4 + title + words + state


def fill_of(kind: str, state: State) -> str:
    """The name of a fill: what a stage does with it, else the kind of module."""
    return f"state-{state}" if state else f"kind-{kind}"


def paint(node: Node, frame: Box, cell_centres: dict[str, float]) -> Painted:
    """The shapes of a node; cell_centres: y of the lanes, for the cells of a sequence."""
    painted = Painted()
    round_ends = node.kind in ("input", "output")
    kind = "encoder" if node.kind == "backbone" and node.column == "encoder" else node.kind
    fill = fill_of(kind, node.state)
    stroke = node.modality if round_ends and node.modality and not node.faint else "line"
    radius = min(frame.height / 2, 20) if round_ends else 10
    box = Box(x=frame.x, y=frame.y, width=frame.width, height=frame.height, fill="plain" if node.faint else fill,
              stroke=stroke, radius=radius, dashed=node.faint, role="node", key=node.key,
              thickness=1.6 if round_ends else 1)  # fmt: skip
    painted.shapes.append(box)
    painted.frames[node.key] = box
    if node.kind == "backbone":
        _paint_header(painted, node, box)
        _paint_groups(painted, node, box)
    elif node.kind == "sequence":
        _paint_header(painted, node, box)
        paint_cells(painted, node, box, box.y + _header_height(node), cell_centres)
    else:
        _paint_words(painted, node, box, centred=round_ends)
    return painted


def _paint_header(painted: Painted, node: Node, box: Box) -> None:
    y, text_width = box.y + PAD - 2, INNER[node.kind]
    y = add_lines(painted.shapes, wrap(node.title, TITLE, text_width, bold=True), box.x + PAD, y, TITLE, bold=True)
    for line in node.lines:
        y = add_lines(painted.shapes, wrap(line, WORDS, text_width), box.x + PAD, y, WORDS, colour="muted")


def _paint_words(painted: Painted, node: Node, box: Box, centred: bool) -> None:
    text_width = INNER[node.kind]
    matrix = MATRIX_HEIGHT if node.matrix else 0
    y = box.y + (box.height - _words_height(node, text_width) - matrix) / 2 + PAD - 2
    x = box.x + box.width / 2 if centred else box.x + PAD
    colour = "muted" if node.faint else "ink"
    title = wrap(node.title, TITLE, text_width, bold=True)
    y = add_lines(painted.shapes, title, x, y, TITLE, bold=True, centred=centred, colour=colour)
    for line in node.lines:
        y = add_lines(painted.shapes, wrap(line, WORDS, text_width), x, y, WORDS, colour="muted", centred=centred)
    if node.state in STATE_WORDS and not centred:
        y = add_lines(painted.shapes, [STATE_WORDS[node.state]], x, y + 4, SMALL, bold=True, colour=f"ink-{node.state}")
    if node.matrix:
        _paint_matrix(painted, node.matrix, box, y + 4)


def _paint_matrix(painted: Painted, axes: tuple[str, str], box: Box, y: float) -> None:
    """Similarities of items of two modalities; pairs lie on the diagonal."""
    step = 11.0
    side = MATRIX * step
    x = box.x + (box.width - side) / 2
    for row in range(MATRIX):
        for column in range(MATRIX):
            fill = "matrix-pair" if row == column else "matrix"
            painted.shapes.append(Box(x=x + column * step + 1, y=y + row * step + 1, width=step - 2, height=step - 2,
                                      fill=fill, radius=2, role="mark"))  # fmt: skip
    painted.shapes.append(Text(x=x + side / 2, y=y + side + SMALL + 2, text=axes[1], size=SMALL, anchor="middle",
                               width=width(axes[1], SMALL), colour=axes[1]))  # fmt: skip
    label = axes[0]
    painted.shapes.append(Text(x=x - 6 - width(label, SMALL), y=y + side / 2 + 4, text=label, size=SMALL,
                               width=width(label, SMALL), colour=label))  # fmt: skip


def _paint_groups(painted: Painted, node: Node, box: Box) -> None:
    """The groups of a backbone below its header, with what text_width there is between them."""
    heights = [group_height(group) for group in node.groups]
    spare = box.height - _header_height(node) - sum(heights) - GAP * len(heights) - PAD
    step = max(spare, 0) / max(len(heights), 1)
    y = box.y + _header_height(node)
    for group, height in zip(node.groups, heights, strict=True):
        y += step / 2
        frame = Box(x=box.x + PAD, y=y, width=box.width - 2 * PAD, height=height)
        paint_group(painted, group, frame)
        y += height + GAP + step / 2
