"""How big each node is, and the shapes inside it once its rectangle is known.

`measure(node)` gives the least width and height; `paint(node, frame)` gives the shapes, and the frames of everything
that an arrow may end at: the node, its rows and its cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from polymodal.cli.diagram.fonts import LINE, width, wrap
from polymodal.cli.diagram.graph import Branch, Cell, Group, Node, Row, State
from polymodal.cli.diagram.scene import Box, Line, Text

PAD, GAP = 12, 8
TITLE, WORDS, SMALL = 14.0, 12.0, 11.0
STATE_WORDS = {"trained": "trained", "partly": "partly trained", "lora": "low-rank paths", "frozen": "frozen"}
INNER = {"encoder": 168, "connector": 168, "head": 150, "generator": 160, "tool": 140, "input": 84, "output": 104,
         "space": 190, "sequence": 132, "backbone": 268}  # fmt: skip
"""Width of the text inside a node, by kind."""
FIXED = ("sequence", "backbone")
SQUARE, CELL_PAD, THIN = 9, 8, 20
MATRIX = 6
"""Rows and columns of the drawn similarity matrix."""


@dataclass
class Painted:
    """Shapes, and the frames by key."""

    shapes: list[Box | Text | Line] = field(default_factory=list)
    frames: dict[str, Box] = field(default_factory=dict)


def measure(node: Node) -> tuple[float, float]:
    """Least width and height of a node."""
    text_width = INNER[node.kind]
    if node.kind == "backbone":
        return text_width + 2 * PAD, _header_height(node) + sum(
            _group_height(group) + GAP for group in node.groups
        ) + PAD
    if node.kind == "sequence":
        cells = sum(cell_height(cell) + GAP for cell in node.cells)
        return text_width + 2 * PAD, headroom(node) + cells
    widest = max((width(line, TITLE, bold=True) for line in wrap(node.title, TITLE, text_width, bold=True)), default=0)
    for line in node.lines:
        widest = max(widest, *(width(each, WORDS) for each in wrap(line, WORDS, text_width)))
    height = _words_height(node, text_width) + (_matrix_height(node) if node.matrix else 0)
    return max(widest, 40) + 2 * PAD, height


def headroom(node: Node) -> float:
    """How far a sequence begins above its first lane: its header, and the text in front of the first item."""
    return _header_height(node) + (THIN + GAP if interleaved(node) else 0)


def interleaved(node: Node) -> bool:
    """Whether text stands in front of every item: where text ends the sequence and is not all of it."""
    return len(node.cells) > 1 and node.cells[-1].modality == "text"


def _header_height(node: Node) -> float:
    return _words_height(node, INNER[node.kind]) - PAD + 6


def _words_height(node: Node, text_width: float) -> float:
    title = len(wrap(node.title, TITLE, text_width, bold=True)) * TITLE * LINE
    words = sum(len(wrap(line, WORDS, text_width)) for line in node.lines) * WORDS * LINE
    state = SMALL * LINE + 4 if STATE_WORDS.get(node.state) and not node.groups else 0
    return 2 * PAD - 4 + title + words + state


def _matrix_height(node: Node) -> float:
    return 96.0


def _row_height(row: Row) -> float:
    text_width = INNER["backbone"] - 3 * PAD
    height = 10 + WORDS * LINE + len(wrap(row.text, SMALL, text_width)) * SMALL * LINE
    if row.branches:
        height += 8 + (10 if row.branches[0].share else 0) + _branch_height(row, text_width)
    return height + (SMALL * LINE if row.state and not _branch_states(row) else 0) + 4


def _branch_height(row: Row, text_width: float) -> float:
    each = _branch_room(row, text_width)
    lines = max(len(wrap(branch.text, SMALL, each)) for branch in row.branches)
    return lines * SMALL * LINE + 8 + (SMALL * LINE if _branch_states(row) else 0)


def _branch_room(row: Row, text_width: float) -> float:
    count = len(row.branches)
    return (text_width - (count - 1) * 6) / count - 10


def _branch_states(row: Row) -> bool:
    return any(branch.state for branch in row.branches)


def _group_height(group: Group) -> float:
    rows = sum(_row_height(row) + 6 for row in group.rows) - 6
    return rows + (2 * GAP + SMALL * LINE + 2 if group.repeat else 0)


def cell_height(cell: Cell) -> float:
    lines = len(wrap(cell.text, WORDS, INNER["sequence"] - 2 * CELL_PAD))
    return 2 * CELL_PAD + lines * WORDS * LINE + SQUARE


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
        _paint_cells(painted, node, box, cell_centres)
    else:
        _paint_words(painted, node, box, centred=round_ends)
    return painted


def _paint_header(painted: Painted, node: Node, box: Box) -> None:
    y, text_width = box.y + PAD - 2, INNER[node.kind]
    y = _lines(painted, wrap(node.title, TITLE, text_width, bold=True), box.x + PAD, y, TITLE, bold=True)
    for line in node.lines:
        y = _lines(painted, wrap(line, WORDS, text_width), box.x + PAD, y, WORDS, colour="muted")


def _paint_words(painted: Painted, node: Node, box: Box, centred: bool) -> None:
    text_width = INNER[node.kind]
    matrix = _matrix_height(node) if node.matrix else 0
    y = box.y + (box.height - _words_height(node, text_width) - matrix) / 2 + PAD - 2
    x = box.x + box.width / 2 if centred else box.x + PAD
    colour = "muted" if node.faint else "ink"
    y = _lines(painted, wrap(node.title, TITLE, text_width, bold=True), x, y, TITLE, bold=True, centred=centred,
               colour=colour)  # fmt: skip
    for line in node.lines:
        y = _lines(painted, wrap(line, WORDS, text_width), x, y, WORDS, colour="muted", centred=centred)
    if node.state in STATE_WORDS and not centred:
        y = _lines(painted, [STATE_WORDS[node.state]], x, y + 4, SMALL, bold=True, colour=f"ink-{node.state}")
    if node.matrix:
        _paint_matrix(painted, node.matrix, box, y + 4)


def _lines(
    painted: Painted, lines: list[str], x: float, y: float, size: float, *, bold: bool = False, colour: str = "ink",
    centred: bool = False,
) -> float:  # fmt: skip
    """Adds lines of text below y; returns the y below them."""
    for line in lines:
        painted.shapes.append(Text(x=x, y=y + size, text=line, size=size, width=width(line, size, bold), bold=bold,
                                   colour=colour, anchor="middle" if centred else "start"))  # fmt: skip
        y += size * LINE
    return y


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
    heights = [_group_height(group) for group in node.groups]
    spare = box.height - _header_height(node) - sum(heights) - GAP * len(heights) - PAD
    step = max(spare, 0) / max(len(heights), 1)
    y = box.y + _header_height(node)
    for group, height in zip(node.groups, heights, strict=True):
        y += step / 2
        frame = Box(x=box.x + PAD, y=y, width=box.width - 2 * PAD, height=height)
        _paint_group(painted, group, frame)
        y += height + GAP + step / 2


def _paint_group(painted: Painted, group: Group, frame: Box) -> None:
    x, y, inner = frame.x, frame.y, frame.width
    if group.repeat:
        painted.shapes.append(Box(x=frame.x, y=frame.y, width=frame.width, height=frame.height, fill="group",
                                  stroke="line", radius=8, role="group"))  # fmt: skip
        x, y, inner = x + GAP, y + GAP, inner - 2 * GAP
    for index, row in enumerate(group.rows):
        height = _row_height(row)
        box = Box(x=x, y=y, width=inner, height=height, fill=_row_fill(row), stroke=row.modality or "line", radius=6,
                  role="row", key=row.key, thickness=1.6 if row.modality else 1)  # fmt: skip
        painted.shapes.append(box)
        painted.frames[row.key] = box
        _paint_row(painted, row, box)
        if index + 1 < len(group.rows):
            middle = x + inner / 2
            painted.shapes.append(Line(points=((middle, y + height), (middle, y + height + 6)), colour="line"))
        y += height + 6
    if group.repeat:
        _lines(painted, [group.repeat], frame.x + frame.width / 2, y - 2, SMALL, bold=True, colour="muted",
               centred=True)  # fmt: skip


def _row_fill(row: Row) -> str:
    if row.state and not _branch_states(row):
        return f"state-{row.state}"
    return f"tint-{row.modality}" if row.modality else "row"


def _paint_row(painted: Painted, row: Row, box: Box) -> None:
    x, text_width = box.x + GAP, INNER["backbone"] - 3 * PAD
    y = _lines(painted, [row.title], x, box.y + 5, WORDS, bold=True)
    y = _lines(painted, wrap(row.text, SMALL, text_width), x, y, SMALL, colour="muted")
    if row.state and not _branch_states(row):
        y = _lines(painted, [STATE_WORDS[row.state]], x, y, SMALL, bold=True, colour=f"ink-{row.state}")
    if not row.branches:
        return
    y += 4
    total = box.width - 2 * GAP
    if row.branches[0].share:
        left = x
        for branch in row.branches:
            painted.shapes.append(Box(x=left, y=y, width=total * branch.share, height=8, fill=branch.modality, radius=0,
                                      role="mark"))  # fmt: skip
            left += total * branch.share
        y += 10
    each = (total - (len(row.branches) - 1) * 6) / len(row.branches)
    for index, branch in enumerate(row.branches):
        frame = Box(x=x + index * (each + 6), y=y, width=each, height=_branch_height(row, text_width),
                    fill=_branch_fill(branch), stroke=branch.modality, radius=5, role="branch",
                    key=f"{row.key}.{branch.modality}", thickness=1.4)  # fmt: skip
        painted.shapes.append(frame)
        below = _lines(painted, wrap(branch.text, SMALL, _branch_room(row, text_width)), frame.x + 5, y + 3, SMALL)
        if branch.state:
            _lines(painted, [STATE_WORDS[branch.state]], frame.x + 5, below, SMALL, bold=True,
                   colour=f"ink-{branch.state}")  # fmt: skip


def _branch_fill(branch: Branch) -> str:
    return f"state-{branch.state}" if branch.state else f"tint-{branch.modality}"


def _paint_cells(painted: Painted, node: Node, box: Box, centres: dict[str, float]) -> None:
    """The cells beside their lanes, where text is interleaved with thin cells of it in front of every item."""
    x, text_width = box.x + PAD, box.width - 2 * PAD
    top = box.y + _header_height(node)
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
        below = _lines(painted, wrap(cell.text, WORDS, INNER["sequence"] - 2 * CELL_PAD), x + CELL_PAD, inside,
                       WORDS)  # fmt: skip
        fits = int((text_width - 2 * CELL_PAD) // (SQUARE + 3))
        mark = cell_mark(cell.modality, cell.discrete)
        for index in range(fits if cell.count is None else min(fits, cell.count)):
            dot = replace(mark, x=x + CELL_PAD + index * (SQUARE + 3), y=below + 3)
            more = index == fits - 1 and (cell.count is None or cell.count > fits)
            painted.shapes += _small_dots(dot) if more else [dot]
        top = bottom + GAP


def cell_mark(modality: str, discrete: bool) -> Box:
    """One position of the sequence: a square for an id, a disc for a feature."""
    return Box(x=0, y=0, width=SQUARE, height=SQUARE, fill="plain" if discrete else modality, stroke=modality,
               radius=2 if discrete else SQUARE / 2, role="mark")  # fmt: skip


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
    _lines(painted, ["text"], x + CELL_PAD, y + (height - WORDS * LINE) / 2, WORDS, colour="muted")
