"""KOSMOS-2's location tokens against transformers, and boxes drawn on the cat."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from polymodal.errors import PromptError
from polymodal.pipelines.grounding import draw_boxes
from polymodal.systems.kosmos_2.patch_boxes import box_of, cells_of, ground, object_text, read_boxes

SNOWMAN = (
    "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> warming "
    "himself by<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></delimiter_of_multi_objects/>"
    "<patch_index_0001><patch_index_0003></object>."
)


def test_text_is_read_as_published() -> None:
    text, found = read_boxes(SNOWMAN)
    assert text == "An image of a snowman warming himself by a fire."
    assert [(text[g.start : g.end], g.phrase) for g in found] == [("a snowman",) * 2, ("a fire",) * 2]
    assert found[0].boxes == ((0.390625, 0.046875, 0.984375, 0.828125),)


def test_equals_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.kosmos2 import processing_kosmos2 as theirs

    for text in (SNOWMAN, "plain words", "<phrase> a</phrase> b<phrase>c </phrase><object><patch_index_0100>"
                 "<patch_index_0132></object>"):  # fmt: skip
        words, wanted = theirs.clean_text_and_extract_entities_with_bboxes(text)
        plain, found = read_boxes(text)
        assert plain == words
        assert [(g.phrase, (g.start, g.end), list(g.boxes)) for g in found] == wanted
    generator = np.random.default_rng(0)
    for _ in range(200):
        x, y = np.sort(generator.random((2, 2)))
        box = (x[0], y[0], x[1], y[1])
        cells = cells_of(box)
        assert cells == theirs.coordinate_to_patch_index(box, 32)
        assert box_of(*cells) == pytest.approx(theirs.patch_index_to_coordinate(*cells, 32))


@given(st.integers(0, 31), st.integers(0, 31), st.integers(0, 31), st.integers(0, 31))
def test_cells_survive_a_round_trip(a: int, b: int, c: int, d: int) -> None:
    first, last = min(a, b) * 32 + min(c, d), max(a, b) * 32 + max(c, d)
    assert cells_of(box_of(first, last)) == (first, last)


def test_a_box_without_phrase_and_one_outside_the_grid() -> None:
    text, found = read_boxes("see <object><patch_index_0000><patch_index_0033></object> here")
    assert text == "see  here" and found[0].phrase == "" and found[0].start == found[0].end == 4
    assert read_boxes("<object><patch_index_0000><patch_index_9999></object>")[1][0].boxes == ()
    with pytest.raises(PromptError, match="left < right"):
        cells_of((0.5, 0.1, 0.5, 0.2))


def test_boxes_are_written_as_published() -> None:
    text = object_text([(0.38, 0.04, 0.99, 0.84), (0.0, 0.0, 0.1, 0.1)])
    assert text == (
        "<object><patch_index_0044><patch_index_0863></delimiter_of_multi_objects/>"
        "<patch_index_0000><patch_index_0099></object>"
    )


def test_boxes_are_drawn() -> None:
    cat = Pillow.open(Path(__file__).parents[2] / "examples" / "cat.jpg").convert("RGB")
    drawn = draw_boxes(cat, [("a cat", [(0.2, 0.2, 0.8, 0.9)])])
    changed = np.argwhere((np.asarray(drawn) != np.asarray(cat)).any(-1))
    assert drawn.size == cat.size
    assert changed[:, 0].min() == pytest.approx(0.2 * cat.height, abs=1)
    assert changed[:, 1].max() == pytest.approx(0.8 * cat.width, abs=1)


def test_an_answer_with_boxes_becomes_plain_words_and_things() -> None:
    found = ground(SNOWMAN, [object()])
    assert "<" not in found.text and found.text.startswith("An image of a snowman")
    assert found.things[0].label == "a snowman"
    assert all(thing.score is None and thing.picture == 0 and min(thing.box) >= 0 for thing in found.things)
    for pictures in ([], [object(), object()]):
        with pytest.raises(PromptError, match="one picture"):
            ground(SNOWMAN, pictures)
