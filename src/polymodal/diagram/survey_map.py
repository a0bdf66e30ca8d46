"""The survey's map: five modules, four types of fusion, lines of work over time, and every system in its place.

    scene_of_systems(systems.every(), proved())  ->  Scene

A column is a year and a row a line of work; models that understand stand by their type of fusion.  A chip is a system:
its colour is the type, its five marks are the modules it has, its border says how it is proved.  All of it is read off
the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from polymodal.diagram.fonts import width
from polymodal.diagram.scene import Box, Line, Scene, Text
from polymodal.systems import LINES, line_of_work

if TYPE_CHECKING:
    from polymodal.systems import System

Shape = Box | Text | Line
MODULES = {
    "encoder": ("Modality encoder", "kind-encoder"),
    "connector": ("Input projector", "kind-connector"),
    "backbone": ("LLM backbone", "kind-backbone"),
    "output connector": ("Output projector", "kind-head"),
    "generator": ("Modality generator", "kind-generator"),
}
TYPES = {
    "A": ("A  cross-attention between blocks", "tint-image"),
    "B": ("B  layers inside blocks", "tint-depth"),
    "C": ("C  features at placeholders", "tint-audio"),
    "D": ("D  ids of one vocabulary", "tint-video"),
    "fusion-encoder": ("one encoder over both", "tint-imu"),
    "method": ("method on features", "tint-other"),
    "agent": ("a planner that calls others", "tint-thermal"),
    "": ("one modality, or side by side", "tint-text"),
}
UNDERSTANDING = "understanding"
MARGIN, LABEL, CHIP, CHIP_HEIGHT, GAP = 24.0, 150.0, 132.0, 34.0, 6.0
TALLEST = 6
"""Chips above each other in one cell; a year with more gets a broader column."""


@dataclass(frozen=True)
class Cell:
    """Where one row meets one year: its left edge, its top, how many chips stand beside each other."""

    x: float
    y: float
    across: int

    def place(self, index: int) -> tuple[float, float]:
        """Left and top of a chip."""
        row, column = divmod(index, self.across)
        return self.x + GAP + column * CHIP, self.y + GAP + row * (CHIP_HEIGHT + GAP)


def scene_of_systems(systems: Sequence[System], proved: Mapping[str, Mapping[str, Any]]) -> Scene:
    """The map of these systems.  proved: what `check.proved.proved()` gives, by id."""
    rows: dict[str, dict[int, list[System]]] = {}
    for each in sorted(systems, key=lambda one: (one.year, one.id)):
        rows.setdefault(row_of(each), {}).setdefault(each.year, []).append(each)
    rows = {name: rows[name] for name in sorted(rows, key=row_order)}
    across = columns(rows)
    right = MARGIN + LABEL + sum(count * CHIP + GAP for count in across.values())
    slots = {each.id: slots_of(each) for each in systems}
    shapes: list[Shape] = [*heading(systems, right), *modules(slots.values(), right), *legend(right)]
    top = 196.0
    x = MARGIN + LABEL
    lefts: dict[int, float] = {}
    for year, count in across.items():
        lefts[year] = x
        shapes.append(text(x + (count * CHIP + GAP) / 2, top, str(year), 14, bold=True, anchor="middle"))
        x += count * CHIP + GAP
    y = top + 12
    for name, by_year in rows.items():
        tall = max(-(-len(found) // across[year]) for year, found in by_year.items())
        height = tall * (CHIP_HEIGHT + GAP) + GAP
        shapes.append(Box(x=MARGIN, y=y, width=right - MARGIN, height=height, fill="group", stroke="line", role="row",
                          key=name))  # fmt: skip
        shapes += row_label(name, y + height / 2)
        for year, found in by_year.items():
            cell = Cell(lefts[year], y, across[year])
            for index, each in enumerate(found):
                shapes += chip(each, slots[each.id], cell.place(index), proved.get(each.id, {}))
        y += height + GAP
    for left in lefts.values():
        shapes.append(Line(points=((left, top + 12), (left, y - GAP)), colour="line", thickness=0.6, dashed=True))
    return Scene(
        width=right + MARGIN,
        height=y + MARGIN - GAP,
        title=f"The survey's map: {len(systems)} systems",
        description="Five modules, four types of fusion, and lines of work over time: "
        + ", ".join(each.aliases[0] if each.aliases else each.id for each in systems),
        shapes=tuple(shapes),
    )


def row_of(system: System) -> str:
    """Its line of work; of models that understand, with the first letter of their fusion."""
    line = line_of_work(system)
    return f"{line}, {system.fusion[0]}" if line == UNDERSTANDING else line


def row_order(name: str) -> tuple[int, str]:
    """Rows in the survey's order."""
    line = name.split(",")[0]
    return LINES.index(line), name


def columns(rows: Mapping[str, Mapping[int, Sequence[System]]]) -> dict[int, int]:
    """Year -> chips beside each other, so that no cell is taller than TALLEST."""
    fullest: dict[int, int] = {}
    for by_year in rows.values():
        for year, found in by_year.items():
            fullest[year] = max(fullest.get(year, 0), -(-len(found) // TALLEST))
    return dict(sorted(fullest.items()))


def text(
    x: float, y: float, words: str, size: float, *, bold: bool = False, colour: str = "ink", anchor: Any = "start"
) -> Text:
    """A line of text with its measured width."""
    return Text(
        x=x, y=y, text=words, size=size, width=width(words, size, bold), bold=bold, colour=colour, anchor=anchor
    )


def heading(systems: Sequence[System], right: float) -> Iterator[Shape]:
    """The title."""
    first, last = min(each.year for each in systems), max(each.year for each in systems)
    yield text(MARGIN, 38, f"{len(systems)} multimodal systems, {first} to {last}", 20, bold=True)
    note = "row: line of work; column: year; the five marks of a system: the modules above that it has"
    yield text(right - width(note, 12), 38, note, 12, colour="muted")


def modules(slots: Iterable[frozenset[str]], right: float) -> Iterator[Shape]:
    """The five modules in the order of the data's way, each with how many systems have it."""
    counts = Counter(slot for each in slots for slot in each)
    gap = 28.0
    wide = (right - MARGIN - gap * (len(MODULES) - 1)) / len(MODULES)
    boxes = [
        Box(
            x=MARGIN + n * (wide + gap),
            y=56,
            width=wide,
            height=46,
            fill=colour,
            stroke="line",
            role="module",
            key=slot,
        )
        for n, (slot, (_, colour)) in enumerate(MODULES.items())
    ]
    yield from boxes
    for one, other in pairwise(boxes):
        yield Line(points=((one.right + 2, one.middle), (other.x - 3, other.middle)), colour="line", arrow=True)
    for n, (box, (slot, (name, _))) in enumerate(zip(boxes, MODULES.items(), strict=True)):
        yield text(box.x + wide / 2, box.y + 20, f"{n + 1}  {name}", 13, bold=True, anchor="middle")
        yield text(box.x + wide / 2, box.y + 37, f"{counts[slot]} systems", 11, colour="muted", anchor="middle")


def legend(right: float) -> Iterator[Shape]:
    """What colours and borders mean."""
    x = MARGIN
    for name, colour in TYPES.values():
        yield Box(x=x, y=118, width=16, height=14, fill=colour, stroke="line", radius=3, role="legend")
        yield text(x + 22, 130, name, 12)
        x += width(name, 12) + 44
    x = MARGIN
    for name, dashed, thickness in (
        ("outputs compared with code that is not ours", False, 1.6),
        ("with a paper's formulas alone", True, 1.6),
        ("nothing to compare, or not yet", False, 0.5),
    ):
        yield Box(x=x, y=144, width=16, height=14, fill="plain", stroke="muted" if thickness > 1 else "line", radius=3,
                  thickness=thickness, dashed=dashed, role="legend")  # fmt: skip
        yield text(x + 22, 156, name, 12)
        x += width(name, 12) + 44


def row_label(name: str, middle: float) -> Iterator[Shape]:
    """The name of a row, its type of fusion below it."""
    line, _, letter = name.partition(", ")
    yield text(MARGIN + 12, middle + (0 if letter else 4), line, 13, bold=True)
    if letter:
        yield text(MARGIN + 12, middle + 16, f"type {letter}", 12, colour="muted")


def chip(
    system: System, slots: frozenset[str], place: tuple[float, float], proof: Mapping[str, Any]
) -> Iterator[Shape]:
    """One system; slots: the modules it has."""
    x, y = place
    first = system.fusion[0] if system.fusion else ""
    fill = TYPES.get(first, TYPES[""])[1]
    compared = proof.get("parity") is True
    yield Box(x=x, y=y, width=CHIP - GAP, height=CHIP_HEIGHT, fill=fill, stroke="muted" if compared else "line",
              thickness=1.6 if compared else 0.5, dashed=compared and proof.get("oracle") == "paper", radius=6,
              role="system", key=system.id)  # fmt: skip
    name = fitted(system.aliases[0] if system.aliases else system.id, 12, CHIP - GAP - 12)
    yield text(x + 7, y + 15, name, 12)
    for n, (slot, _) in enumerate(MODULES.items()):
        fill = "muted" if slot in slots else "page"
        yield Box(x=x + 7 + n * 10, y=y + 22, width=7, height=6, fill=fill, stroke="line", radius=1, thickness=0.7,
                  role="mark", key=slot)  # fmt: skip
    letters = "+".join(system.fusion) if len(system.fusion) > 1 else ""
    if letters:
        yield text(x + CHIP - GAP - 7 - width(letters, 10), y + 28, letters, 10, colour="muted")


def fitted(name: str, size: float, room: float) -> str:
    """The name, cut where it is too long."""
    if width(name, size) <= room:
        return name
    while name and width(name + "..", size) > room:
        name = name[:-1]
    return name + ".."


def slots_of(system: System) -> frozenset[str]:
    """The modules that any variant of a system has."""
    return frozenset(part.slot for variant in system.variants for part in system.drawing(variant))
