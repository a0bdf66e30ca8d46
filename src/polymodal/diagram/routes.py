"""Where arrows run: level from node to node, turning only in the gaps between columns.

Both ends at one height where their frames face each other; otherwise one turn in the gap in front of the target, or
behind the source where a node stands in the way.  Every source has a track of its own in a gap, so that lines cross at
right angles and never lie on each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.diagram.graph import Edge
from polymodal.diagram.scene import Box, Line

INSET, SPREAD, HEAD = 10.0, 12.0, 14.0


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The space between two columns."""

    left: float
    right: float


@dataclass
class _Ends:
    edge: Edge
    start: float
    end: float
    gap: int = -1

    @property
    def level(self) -> bool:
        return abs(self.start - self.end) < 0.5


def route(
    edges: Sequence[Edge], frames: dict[str, Box], nodes: Sequence[Box], gaps: Sequence[Gap]
) -> tuple[list[Line], list[int]]:
    """One line for each edge, and how many tracks are used in each gap.

    nodes: what lines must go round; gaps: from left to right.
    """
    lines, ends = [], []
    for edge in edges:
        source, target = frames[edge.source], frames[edge.target]
        if abs(source.x - target.x) < 1 or source.right > target.x:
            lines.append(_down(edge, source, target))
        else:
            ends.append(_Ends(edge, *_heights(source, target)))
    _spread(ends, frames)
    for each in ends:
        if not each.level:
            each.gap = _gap_of(each, frames, nodes, gaps)
    tracks = _tracks(ends, gaps)
    for each in ends:
        source, target = frames[each.edge.source], frames[each.edge.target]
        first, last = (source.right, each.start), (target.x, each.end)
        x = tracks.get((each.gap, each.edge.source, each.end > each.start))
        points = (first, last) if each.level or x is None else (first, (x, each.start), (x, each.end), last)
        lines.append(_line(each.edge, points))
    return lines, [sum(key[0] == index for key in tracks) for index in range(len(gaps))]


def _line(edge: Edge, points: tuple[tuple[float, float], ...]) -> Line:
    return Line(points=points, colour=edge.modality or "line", arrow=True, dashed=edge.faint,
                key=f"{edge.source} -> {edge.target}")  # fmt: skip


def _down(edge: Edge, source: Box, target: Box) -> Line:
    """Between nodes of one column."""
    x = (max(source.x, target.x) + min(source.right, target.right)) / 2
    below = target.y > source.y
    return _line(edge, ((x, source.bottom if below else source.y), (x, target.y if below else target.bottom)))


def _heights(source: Box, target: Box) -> tuple[float, float]:
    """Where the arrow leaves and arrives: at one height where the frames face each other."""
    top, bottom = max(source.y, target.y) + INSET, min(source.bottom, target.bottom) - INSET
    if top <= bottom:
        smaller = source if source.height <= target.height else target
        y = min(max(smaller.middle, top), bottom)
        return y, y
    return source.middle, target.middle


def _spread(ends: list[_Ends], frames: dict[str, Box]) -> None:
    """Arrows that would leave or arrive at one point are moved apart; level ones stay where they are."""
    for arriving in (False, True):
        groups: dict[str, list[_Ends]] = defaultdict(list)
        for each in ends:
            groups[each.edge.target if arriving else each.edge.source].append(each)
        for key, group in groups.items():
            taken = sorted(group, key=lambda each: (each.start, each.end) if arriving else (each.end, each.start))
            heights = [each.end if arriving else each.start for each in taken]
            if len({round(height) for height in heights}) == len(heights):
                continue
            for each, y in zip(taken, _apart(taken, frames[key]), strict=True):
                if arriving:
                    each.end = y
                else:
                    each.start = y


def _apart(taken: list[_Ends], frame: Box) -> list[float]:
    """Heights for the arrows at one side of a frame, in their order: around a level one, else around the middle."""
    step = min(SPREAD, (frame.height - 8) / len(taken))
    level = [index for index, each in enumerate(taken) if each.level]
    if len(level) > 1:  # only from frames that face each of them, whose heights differ
        return [each.start if each.level else frame.middle for each in taken]
    pivot, y = (level[0], taken[level[0]].start) if level else ((len(taken) - 1) / 2, frame.middle)
    heights = [y + (index - pivot) * step for index in range(len(taken))]
    out = max(frame.y + 4 - heights[0], 0) - max(heights[-1] - frame.bottom + 4, 0)
    return [height + out for height in heights]


def _gap_of(each: _Ends, frames: dict[str, Box], nodes: Sequence[Box], gaps: Sequence[Gap]) -> int:
    """In which gap the line turns: as late as nothing stands in its way."""
    source, target = frames[each.edge.source], frames[each.edge.target]
    between = [index for index, gap in enumerate(gaps) if gap.left >= source.right - 40 and gap.right <= target.x + 40]
    for index in reversed(between):
        gap = gaps[index]
        before = [node for node in nodes if source.right < node.x and node.right <= gap.left + 1]
        after = [node for node in nodes if node.x >= gap.right - 1 and node.right < target.x]
        clear = not any(node.y - 3 < each.start < node.bottom + 3 for node in before)
        if clear and not any(node.y - 3 < each.end < node.bottom + 3 for node in after):
            return index
    return between[-1] if between else -1


def _tracks(ends: Sequence[_Ends], gaps: Sequence[Gap]) -> dict[tuple[int, str, bool], float]:
    """x of the turn by gap, source and direction: downward lines that start lower turn first, upward ones that start
    higher do, so that they do not cross each other."""
    used: dict[int, dict[tuple[int, str, bool], float]] = defaultdict(dict)
    for each in ends:
        if not each.level and each.gap >= 0:
            used[each.gap].setdefault((each.gap, each.edge.source, each.end > each.start), each.start)
    tracks: dict[tuple[int, str, bool], float] = {}
    for index, keys in used.items():
        order = sorted(keys, key=lambda key: (key[2], -keys[key] if key[2] else keys[key]))
        gap = gaps[index]
        step = (gap.right - HEAD - gap.left - 6) / (len(order) + 1)
        for position, key in enumerate(order, start=1):
            tracks[key] = gap.left + 6 + position * step
    return tracks
