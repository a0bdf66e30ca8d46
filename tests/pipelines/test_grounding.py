"""Boxes of things: their numbers, which of several that overlap is kept, and what is drawn."""

import numpy as np
import pytest
from PIL import Image as Pillow

from polymodal.pipelines.grounding import Thing, distinct, draw_things, overlap, pixels


def test_boxes_are_pixels_of_their_picture_and_stay_inside() -> None:
    thing = Thing(label="dog", box=(-0.1, 0.25, 0.5, 1.2), score=0.123456, picture=1)
    assert thing.as_dict((640, 480)) == {"label": "dog", "box": [0, 120, 320, 480], "score": 0.1235, "picture": 1}
    assert Thing(label="", box=(0, 0, 1, 1)).as_dict((3, 2))["score"] is None
    assert pixels((0.5, 0.5, 1, 1), (5, 3)) == [2, 2, 5, 3]


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5)) == 1
    assert overlap((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5)) == 0
    assert overlap((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)


def test_of_things_of_one_name_that_overlap_the_first_is_kept() -> None:
    cat, again = (
        Thing(label="cat", box=(0, 0, 0.5, 0.5), score=0.9),
        Thing(label="cat", box=(0, 0, 0.5, 0.6), score=0.4),
    )
    dog, other = (
        Thing(label="dog", box=(0, 0, 0.5, 0.5), score=0.6),
        Thing(label="cat", box=(0.5, 0.5, 1, 1), score=0.3),
    )
    assert distinct([cat, dog, again, other]) == [cat, dog, other]


def test_a_drawing_changes_the_edges_of_its_boxes_and_not_the_picture() -> None:
    grey = Pillow.new("RGB", (200, 100), (128, 128, 128))
    drawn = np.asarray(draw_things(grey, [Thing(label="", box=(0.25, 0.2, 0.75, 0.8))]))
    changed = (drawn != 128).any(-1)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (50, 150, 20, 80)
    assert not changed[30:70, 60:140].any() and np.asarray(grey).std() == 0
