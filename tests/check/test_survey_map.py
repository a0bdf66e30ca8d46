"""The map of all systems: every system once, in the row of its line and the column of its year, nothing overlapping."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise

import pytest

from polymodal import systems
from polymodal.check.proved import proved
from polymodal.diagram.scene import Box, Text
from polymodal.diagram.survey_map import MODULES, row_of, scene_of_systems, slots_of
from polymodal.diagram.svg import to_svg
from polymodal.systems import LINES, line_of_work


@pytest.fixture(scope="module")
def scene():
    return scene_of_systems(systems.every(), proved())


def boxes(scene, role):
    return [each for each in scene.shapes if isinstance(each, Box) and each.role == role]


def test_every_system_stands_once_in_the_row_of_its_line(scene):
    chips = {each.key: each for each in boxes(scene, "system")}
    rows = {each.key: each for each in boxes(scene, "row")}
    assert sorted(chips) == systems.ids() and len(boxes(scene, "system")) == len(chips)
    for system in systems.every():
        assert rows[row_of(system)].holds(chips[system.id])
    assert not [pair for pair in combinations(chips.values(), 2) if pair[0].overlaps(pair[1])]


def test_years_go_from_left_to_right(scene):
    edges: dict[int, tuple[float, float]] = {}
    chips = {each.key: each for each in boxes(scene, "system")}
    for system in systems.every():
        left, right = edges.get(system.year, (float("inf"), 0.0))
        edges[system.year] = min(left, chips[system.id].x), max(right, chips[system.id].right)
    ordered = [edges[year] for year in sorted(edges)]
    assert all(one[1] < other[0] for one, other in pairwise(ordered))


def test_texts_and_marks_lie_in_the_picture(scene):
    whole = Box(x=0, y=0, width=scene.width, height=scene.height)
    for shape in scene.shapes:
        if isinstance(shape, Text):
            assert whole.holds(shape.box), shape.text
    marks = boxes(scene, "mark")
    assert len(marks) == len(MODULES) * len(systems.ids())
    filled = [each for each in marks if each.key == "generator" and each.fill == "muted"]
    assert len(filled) == sum("generator" in slots_of(each) for each in systems.every())


def test_the_picture_is_well_formed_and_names_all(scene):
    tree = ElementTree.fromstring(to_svg(scene))
    words = " ".join(tree.itertext())
    assert all(each.aliases[0] in words for each in systems.every())


@pytest.mark.parametrize(
    ("id", "line"),
    [("clip", "foundations"), ("tigerbot", "text models"), ("llava-1.5", "understanding"),
     ("emu3", "one further output"), ("next-gpt", "any to any"), ("mult", "fusion methods"), ("albef", "foundations")],
)  # fmt: skip
def test_lines_of_work(id, line):
    assert line_of_work(systems.get(id)) == line and line in LINES
