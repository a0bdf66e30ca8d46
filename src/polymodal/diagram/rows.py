"""The layers inside a backbone: rows with their branches, in a frame where they repeat.

`group_height` says how much a group needs, `paint_group` draws it.  A bar over the parts of a vocabulary shows their
shares.
"""

from __future__ import annotations

from polymodal.diagram.fonts import LINE, wrap
from polymodal.diagram.graph import Branch, Group, Row
from polymodal.diagram.painting import BACKBONE_WIDTH, GAP, PAD, SMALL, STATE_WORDS, WORDS, Painted, add_lines
from polymodal.diagram.scene import Box, Line


def _row_height(row: Row) -> float:
    text_width = BACKBONE_WIDTH - 3 * PAD
    height = 10 + WORDS * LINE + len(wrap(row.text, SMALL, text_width)) * SMALL * LINE
    if row.branches:
        height += 8 + (10 if row.branches[0].share else 0) + _branch_height(row, text_width)
    return height + (SMALL * LINE if row.state and not _branch_states(row) else 0) + 4


def _branch_height(row: Row, text_width: float) -> float:
    each = _branch_width(row, text_width)
    lines = max(len(wrap(branch.text, SMALL, each)) for branch in row.branches)
    return lines * SMALL * LINE + 8 + (SMALL * LINE if _branch_states(row) else 0)


def _branch_width(row: Row, text_width: float) -> float:
    count = len(row.branches)
    return (text_width - (count - 1) * 6) / count - 10


def _branch_states(row: Row) -> bool:
    return any(branch.state for branch in row.branches)


def group_height(group: Group) -> float:
    rows = sum(_row_height(row) + 6 for row in group.rows) - 6
    return rows + (2 * GAP + SMALL * LINE + 2 if group.repeat else 0)


def paint_group(painted: Painted, group: Group, frame: Box) -> None:
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
        add_lines(painted.shapes, [group.repeat], frame.x + frame.width / 2, y - 2, SMALL, bold=True, colour="muted",
               centred=True)  # fmt: skip


def _row_fill(row: Row) -> str:
    if row.state and not _branch_states(row):
        return f"state-{row.state}"
    return f"tint-{row.modality}" if row.modality else "row"


def _paint_row(painted: Painted, row: Row, box: Box) -> None:
    x, text_width = box.x + GAP, BACKBONE_WIDTH - 3 * PAD
    y = add_lines(painted.shapes, [row.title], x, box.y + 5, WORDS, bold=True)
    y = add_lines(painted.shapes, wrap(row.text, SMALL, text_width), x, y, SMALL, colour="muted")
    if row.state and not _branch_states(row):
        y = add_lines(painted.shapes, [STATE_WORDS[row.state]], x, y, SMALL, bold=True, colour=f"ink-{row.state}")
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
        below = add_lines(
            painted.shapes, wrap(branch.text, SMALL, _branch_width(row, text_width)), frame.x + 5, y + 3, SMALL
        )
        if branch.state:
            add_lines(painted.shapes, [STATE_WORDS[branch.state]], frame.x + 5, below, SMALL, bold=True,
                   colour=f"ink-{branch.state}")  # fmt: skip


def _branch_fill(branch: Branch) -> str:
    return f"state-{branch.state}" if branch.state else f"tint-{branch.modality}"
