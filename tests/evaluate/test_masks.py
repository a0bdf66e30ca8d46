"""Masks against davis2017-evaluation, pycocotools and scikit-learn.

evaluate_masks.json: three objects of four frames, speckled ellipses and shifted ones (generator 4), one prediction
empty and one frame empty in both, in pycocotools' run lengths; J and F by davis2017-evaluation, Dice as F1 of
pixels (null where both are empty), mIoU as its macro Jaccard score.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polymodal.errors import ConfigError
from polymodal.evaluate.masks import (
    CLASS_IOU,
    DICE,
    HD95,
    MASK_IOU,
    MASK_PRECISIONS,
    OVERALL_IOU,
    VIDEO_OBJECTS,
    F,
    J,
    boundary,
    boundary_f,
    dice,
    frames,
    hausdorff,
    jaccard,
    near,
    read_mask,
)
from polymodal.evaluate.metric import Scored, measured

HAUSDORFF = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_hausdorff.json").read_text())

STORED = json.loads((Path(__file__).parents[1] / "fixtures/evaluate_masks.json").read_text())
OBJECTS = [Scored(record={"masks": each["masks"]}, prediction=each["predictions"]) for each in STORED["objects"]]
SQUARE = {"size": [2, 2], "counts": [0, 4]}


@pytest.mark.parametrize("index", range(3))
def test_frames_equal_the_references(index: int) -> None:
    stored, pairs = STORED["objects"][index], frames(OBJECTS[index])
    assert [int(marked.sum()) for marked, _ in pairs] == stored["pixels"]
    assert [jaccard(*pair) for pair in pairs] == pytest.approx(stored["J"], abs=1e-12)
    assert [boundary_f(*pair) for pair in pairs] == pytest.approx(stored["F"], abs=1e-12)
    assert [dice(*pair) for pair in pairs] == pytest.approx([1 if d is None else d for d in stored["dice"]], abs=1e-12)


def test_means_are_over_frames_then_objects() -> None:
    j, f = (np.mean([np.mean(each[name]) for each in STORED["objects"]]) for name in ("J", "F"))
    assert [measured(metric, OBJECTS).value for metric in VIDEO_OBJECTS] == pytest.approx([j, f, (j + f) / 2])
    assert F.of(OBJECTS).shape == J.of(OBJECTS).shape == (3,)


def test_classes_equal_scikit_learn() -> None:
    pairs = zip(STORED["classes"], STORED["predicted_classes"], strict=True)
    samples = [Scored(record={"classes": marked}, prediction=said) for marked, said in pairs]
    assert measured(CLASS_IOU, samples).value == pytest.approx(STORED["mean_iou"], abs=1e-12)
    unknown = [Scored(record={"classes": [[0, 255]]}, prediction=[[0, 1]])]
    assert measured(CLASS_IOU, unknown).value == 1
    left_open = [Scored(record={"classes": [[0, 1]]}, prediction=[[0, 255]])]
    assert measured(CLASS_IOU, left_open).value == 0.5


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_near_is_a_disk_around_each_pixel(mask: np.ndarray, radius: int) -> None:
    found = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        found[y, x] = any(mask[v, u] and (y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in np.ndindex(mask.shape))
    assert (near(mask, radius) == found).all()


@settings(max_examples=50)
@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_rows_and_runs_are_the_same_mask(mask: np.ndarray) -> None:
    runs, last = [0], False
    for pixel in mask.T.ravel().tolist():
        runs = [*runs[:-1], runs[-1] + 1] if pixel == last else [*runs, 1]
        last = pixel
    from_runs = read_mask({"size": list(mask.shape), "counts": runs}, "mask")
    assert (from_runs == read_mask(mask.astype(int).tolist(), "mask")).all() and (from_runs == mask).all()
    assert jaccard(mask, mask) == boundary_f(mask, mask) == dice(mask, mask) == 1
    assert not boundary(np.ones_like(mask)).any()


def test_one_picture_and_nothing_found() -> None:
    half = [[1, 0], [1, 0]]
    samples = [Scored(record={"mask": half}, prediction=said) for said in (half, SQUARE, None)]
    assert MASK_IOU.of(samples).tolist() == [1, 0.5, 0]
    assert DICE.of(samples) == pytest.approx([1, 2 / 3, 0])
    assert measured(OVERALL_IOU, samples).value == pytest.approx(4 / 8)
    assert MASK_PRECISIONS[0].of(samples).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("mask", "prediction", "message"),
    [
        ([[0, 2]], None, "mask: expected 0 and 1, found numbers up to 2"),
        ([[0, 1], [1]], None, "mask: expected rows of whole numbers, all of one length"),
        ({"size": [2], "counts": [4]}, None, "mask: expected size .height, width. of run lengths"),
        ({"size": [2, 2], "counts": [5]}, None, "mask: expected run lengths of 2 x 2 pixels, found 5"),
        ({"size": [2, 2], "counts": [5, -1]}, None, "mask: expected counts as COCO's text or a list"),
        ({"size": [2, 2], "counts": "é"}, None, "found the character 'é' in counts"),
        ({"size": [2, 2], "counts": "P"}, None, "counts that end within a number"),
        (SQUARE, [[1, 1, 1]], r"prediction: expected 2 rows of 2 pixels, found \(1, 3\)"),
        (SQUARE, "all", "prediction: expected rows of whole numbers"),
    ],
)
def test_mistakes_are_named(mask: object, prediction: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        J.of([Scored(record={"mask": mask}, prediction=prediction)])


def test_as_many_frames_are_expected_as_the_row_has() -> None:
    with pytest.raises(ConfigError, match="prediction: expected a list of 2 masks as the row has, found list"):
        J.of([Scored(record={"masks": [SQUARE] * 2}, prediction=[SQUARE])])
    with pytest.raises(ConfigError, match="a mask for each frame, with at least one, found list"):
        J.of([Scored(record={"masks": []}, prediction=[])])


@pytest.mark.parametrize("case", HAUSDORFF["cases"], ids=lambda case: f"{case['hd95']:.1f}")
def test_hausdorff_equals_monai(case: dict) -> None:
    """evaluate_hausdorff.json: unions of random disks (generator 4), and what monai gives for them."""
    marked, said = ([list(map(int, row)) for row in case[name]] for name in ("mask", "prediction"))
    sample = Scored(record={"mask": marked}, prediction=said)
    assert HD95.of([sample])[0] == pytest.approx(case["hd95"], abs=1e-5)  # monai: float32


def test_hausdorff_of_empty_masks() -> None:
    nothing, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert [hausdorff(nothing, nothing), hausdorff(nothing, full), hausdorff(full, full)] == [0, 5, 0]
