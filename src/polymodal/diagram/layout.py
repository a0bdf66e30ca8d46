"""Graph -> scene: columns from left to right as wide as their widest node, lanes from top to bottom.

    measure nodes -> widths of columns, heights of lanes -> frames of nodes -> shapes inside -> arrows (routes.py)

A node that spans lanes stands beside all of them; several nodes of one lane and column stand below each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polymodal.diagram.boxes import FIXED, headroom, measure, paint
from polymodal.diagram.cells import THIN, cell_height, cell_mark, interleaved
from polymodal.diagram.fonts import LINE, width, wrap
from polymodal.diagram.graph import COLUMNS, Graph, Node
from polymodal.diagram.painting import GAP, add_lines
from polymodal.diagram.routes import Gap, route
from polymodal.diagram.scene import Box, Line, Scene, Text

MARGIN, LANE_GAP, STACK_GAP = 24.0, 22.0, 12.0
BESIDE = 30.0
"""How far a box beside several lanes reaches past the middle of the first and of the last."""
COLUMN_GAP, TRACK, MANY = 40.0, 11.0, 8
NAME, HEADLINE, HEADING = 22.0, 13.0, 11.0
STRETCH = 1.15
"""How much higher than needed a backbone may be drawn to stand beside all lanes."""
STAGES = (("trained", "trained in this stage"), ("partly", "trained in part"), ("lora", "low-rank paths (LoRA)"),
          ("frozen", "frozen"))  # fmt: skip


class Layout:
    """Coordinates of one graph; `frames` by key, `shapes` in the order of painting.

    tracks: how many arrows turn in the gap behind each column, as a first layout found; None: not known yet.
    """

    def __init__(self, graph: Graph, tracks: Sequence[int] | None = None) -> None:
        self.graph = graph
        self.sizes = {node.key: measure(node) for node in graph.nodes}
        self.columns = [name for name in COLUMNS if any(node.column == name for node in graph.nodes)]
        self.shapes: list[Box | Text | Line] = []
        self.frames: dict[str, Box] = {}
        self._place_columns([MANY] * len(self.columns) if tracks is None else tracks)
        self.width = max(self.right + MARGIN, 560.0)
        self.top = self._paint_titles()
        self._place_lanes()
        self._paint_nodes()
        self._paint_edges()
        self.height = self._paint_notes(self.bottom + 8) + MARGIN

    def _at(self, column: str, lane: str | None = None) -> list[Node]:
        """Nodes of a column; with a lane, those that stand in this lane alone."""
        nodes = [node for node in self.graph.nodes if node.column == column]
        return nodes if lane is None else [node for node in nodes if node.lanes == (lane,) and node.kind not in FIXED]

    def _place_columns(self, tracks: Sequence[int]) -> None:
        """Left edges and widths; a gap is wider where many arrows turn in it."""
        self.gaps: list[Gap] = []
        self.left: dict[str, float] = {}
        self.widths: dict[str, float] = {}
        x = MARGIN
        for name, count in zip(self.columns, tracks, strict=True):
            heading = width(self.graph.column_name(name).upper(), HEADING, bold=True)
            inner = max((self.sizes[node.key][0] for node in self._at(name)), default=0)
            self.left[name], self.widths[name] = x, max(inner, heading)
            space = COLUMN_GAP + TRACK * max(count - 1, 0)
            right = x + self.widths[name]
            self.gaps.append(Gap(left=right, right=right + space))
            x = right + space
        self.right = (self.left[self.columns[-1]] + self.widths[self.columns[-1]]) if self.columns else 400.0

    def _paint_titles(self) -> float:
        """Name, headline and badge; returns the y below the headings of the columns."""
        text_width, y = self.width - 2 * MARGIN, MARGIN
        y = add_lines(self.shapes, wrap(self.graph.title, NAME, text_width, bold=True), MARGIN, y, NAME, bold=True)
        y = add_lines(
            self.shapes, wrap(self.graph.subtitle, HEADLINE, text_width), MARGIN, y + 2, HEADLINE, colour="muted"
        )
        for words in (self.graph.badge, self.graph.stage):
            if words:
                y = add_lines(
                    self.shapes, wrap(words, HEADLINE, text_width, bold=True), MARGIN, y + 2, HEADLINE, bold=True
                )
        y += 12
        for name in self.columns:
            heading = self.graph.column_name(name).upper()
            middle = self.left[name] + self.widths[name] / 2
            add_lines(self.shapes, [heading], middle, y, HEADING, bold=True, colour="muted", centred=True)
        return y + HEADING * LINE + 10

    def _place_lanes(self) -> None:
        """Tops and heights of the lanes: of what stands in them alone first, then of what spans them."""
        lanes = self.graph.lanes
        heights = {lane: 40.0 for lane in lanes}
        before = dict.fromkeys(lanes, 0.0)
        for lane in lanes:
            for name in self.columns:
                stack = [self.sizes[node.key][1] for node in self._at(name, lane)]
                heights[lane] = max(heights[lane], sum(stack) + STACK_GAP * (len(stack) - 1))
        for node in self.graph.nodes:
            if node.kind == "sequence":
                before[node.lanes[0]] = max(before[node.lanes[0]], headroom(node))
                for cell in node.cells:
                    heights[cell.lane] = max(heights[cell.lane], self._cell_space(node, cell.key))
        for node in self.graph.nodes:
            spanned = [lane for lane in lanes if lane in node.lanes]
            if len(spanned) > 1 or node.kind in FIXED:
                space = sum(heights[lane] for lane in spanned) + LANE_GAP * (len(spanned) - 1)
                space += sum(before[lane] for lane in (spanned if node.kind in FIXED else spanned[1:]))
                missing = self.sizes[node.key][1] - space
                for lane in spanned if missing > 0 else ():
                    heights[lane] += missing / len(spanned)
        y = self.top
        self.lane_top: dict[str, float] = {}
        for index, lane in enumerate(lanes):
            y += before[lane] if index == 0 else max(before[lane] - LANE_GAP / 2, 0)
            self.lane_top[lane] = y
            y += heights[lane] + LANE_GAP
        self.lane_height = heights
        self.before = before
        self.bottom = y - LANE_GAP if lanes else self.top

    def _cell_space(self, node: Node, key: str) -> float:
        cell = next(each for each in node.cells if each.key == key)
        between = THIN + GAP if interleaved(node) and cell not in (node.cells[0], node.cells[-1]) else 0
        return cell_height(cell) + max(between + GAP - LANE_GAP, 0) + GAP

    def _middle(self, lane: str) -> float:
        return self.lane_top[lane] + self.lane_height[lane] / 2

    def _frame(self, node: Node) -> Box:
        """The rectangle of a node that spans lanes."""
        spanned = [lane for lane in self.graph.lanes if lane in node.lanes]
        top = self.lane_top[spanned[0]] - (self.before[spanned[0]] if node.kind in FIXED else 0)
        bottom = self.lane_top[spanned[-1]] + self.lane_height[spanned[-1]]
        needed = self.sizes[node.key][1]
        if node.kind not in FIXED:  # from lane to lane, so that arrows arrive level
            first, last = self._middle(spanned[0]) - BESIDE, self._middle(spanned[-1]) + BESIDE
            if last - first >= needed:
                top, bottom = max(top, first), min(bottom, last)
        height = bottom - top
        if node.kind == "backbone":
            height = min(height, needed * STRETCH)
        y = (top + bottom - height) / 2
        wide, least = self.widths[node.column], self.sizes[node.key][0]
        x = self.left[node.column] + (wide - least) / 2 if node.kind in FIXED else self.left[node.column]
        return Box(x=x, y=y, width=least if node.kind in FIXED else wide, height=height)

    def _paint_nodes(self) -> None:
        centres = {lane: self._middle(lane) for lane in self.graph.lanes}
        for name in self.columns:
            for lane in self.graph.lanes:
                stack = self._at(name, lane)
                total = sum(self.sizes[node.key][1] for node in stack) + STACK_GAP * (len(stack) - 1)
                y = centres[lane] - total / 2
                for node in stack:
                    height = self.sizes[node.key][1]
                    box = Box(x=self.left[name], y=y, width=self.widths[name], height=height)
                    self._add(node, box, centres)
                    y += height + STACK_GAP
            for node in self._at(name):
                if node.key not in self.frames:
                    self._add(node, self._frame(node), centres)

    def _add(self, node: Node, box: Box, centres: dict[str, float]) -> None:
        painted = paint(node, box, centres)
        self.shapes += painted.shapes
        self.frames |= painted.frames

    def _paint_edges(self) -> None:
        nodes = [self.frames[node.key] for node in self.graph.nodes]
        lines, self.tracks = route(self.graph.edges, self.frames, nodes, self.gaps)
        self.shapes += lines

    def _paint_notes(self, y: float) -> float:
        """The legend, and notes; returns the y below them."""
        x, y = MARGIN, y + 8
        entries = legend(self.graph)
        for mark, words in entries:
            wide = width(words, HEADING)
            if x + 22 + wide > self.width - MARGIN:
                x, y = MARGIN, y + 20
            self.shapes.append(replace(mark, x=x, y=y + (12 - mark.height) / 2))
            add_lines(self.shapes, [words], x + mark.width + 6, y - 1, HEADING, colour="muted")
            x += mark.width + wide + 26
        y += 16 if entries else -8
        for note in self.graph.notes:
            y = add_lines(
                self.shapes, wrap(note, HEADLINE, self.width - 2 * MARGIN), MARGIN, y + 4, HEADLINE, colour="muted"
            )
        return y


def legend(graph: Graph) -> list[tuple[Box, str]]:
    """Marks of this picture with their meaning."""
    cells = [cell for node in graph.nodes for cell in node.cells]
    entries = []
    if any(not cell.discrete for cell in cells):
        entries.append((cell_mark("image", discrete=False), "continuous feature"))
    if any(cell.discrete for cell in cells):
        entries.append((cell_mark("text", discrete=True), "token: an id of the vocabulary"))
    if any(node.faint for node in graph.nodes):
        mark = Box(x=0, y=0, width=20, height=12, fill="plain", stroke="line", radius=4, dashed=True, role="mark")
        entries.append((mark, "beside the model, or in other variants"))
    for state, words in STAGES if graph.stage else ():
        mark = Box(x=0, y=0, width=20, height=12, fill=f"state-{state}", stroke="line", radius=3, role="mark")
        entries.append((mark, words))
    return entries


def scene_of(graphs: Sequence[Graph]) -> Scene:
    """One picture of one or several systems, in a grid whose shape comes nearest to a slide's."""
    layouts = [Layout(graph, Layout(graph).tracks) for graph in graphs]
    columns = min(range(1, len(layouts) + 1), key=lambda count: _unlike_a_slide(layouts, count))
    shapes: list[Box | Text | Line] = []
    widths = _grid_widths(layouts, columns)
    y = 0.0
    for start in range(0, len(layouts), columns):
        line = layouts[start : start + columns]
        for index, layout in enumerate(line):
            shapes += [_moved(shape, sum(widths[:index]), y) for shape in layout.shapes]
        y += max(layout.height for layout in line)
    description = " ".join(f"{graph.title}: {graph.subtitle} {words(graph)}" for graph in graphs)
    title = ", ".join(graph.title for graph in graphs)
    return Scene(width=sum(widths), height=y, title=f"Architecture of {title}", description=description,
                 shapes=tuple(shapes))  # fmt: skip


def words(graph: Graph) -> str:
    """The picture in words, for those who cannot see it: every arrow."""
    named = {node.key: node.title for node in graph.nodes}
    named |= {row.key: row.title for row in graph.rows()}
    named |= {cell.key: cell.text for node in graph.nodes for cell in node.cells}
    return "; ".join(f"{named[edge.source]} -> {named[edge.target]}" for edge in graph.edges)


def _grid_widths(layouts: Sequence[Layout], columns: int) -> list[float]:
    """Width of each column of a grid that is filled row by row."""
    return [max(layout.width for layout in layouts[index::columns]) for index in range(columns)]


def _unlike_a_slide(layouts: Sequence[Layout], columns: int) -> float:
    """By which factor a grid is wider or higher than a slide."""
    lines = [layouts[start : start + columns] for start in range(0, len(layouts), columns)]
    high = sum(max(layout.height for layout in line) for line in lines)
    ratio = sum(_grid_widths(layouts, columns)) / high / 1.6
    return max(ratio, 1 / ratio)


def _moved(shape: Box | Text | Line, x: float, y: float) -> Box | Text | Line:
    if isinstance(shape, Line):
        return replace(shape, points=tuple((px + x, py + y) for px, py in shape.points))
    return replace(shape, x=shape.x + x, y=shape.y + y)
