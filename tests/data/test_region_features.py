"""Files of region features: written and read back for any numbers; what is damaged is refused in one line."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from polymodal.data.limits import Limits
from polymodal.data.region_features import RegionFeatures, Regions, read_npz, read_tsv, tsv_line
from polymodal.errors import MediaError

FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def pictures(draw):
    """(width, height), boxes in pixels [R, 4], features [R, F]."""
    count, features = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    sides = draw(st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
    shares = np.sort(draw(arrays.arrays(np.float32, (count, 2, 2), elements=st.floats(0, 1, width=32))), axis=1)
    boxes = shares.reshape(count, 4) * np.array([*sides, *sides], np.float32)
    return sides, boxes, draw(arrays.arrays(np.float32, (count, features), elements=FLOATS))


def npz(**named) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(pictures())
def test_a_line_of_bottom_up_attention_is_read_as_it_was_written(made) -> None:
    sides, boxes, features = made
    ((name, found),) = read_tsv(tsv_line("COCO_1", sides, boxes, features))
    assert name == "COCO_1"
    assert np.array_equal(found.features, features)
    assert np.allclose(found.boxes * np.array([*sides, *sides]), boxes, rtol=1e-5, atol=1e-2)


@settings(max_examples=60, deadline=None)
@given(pictures(), st.booleans())
def test_an_npz_file_of_pixels_or_shares_is_read_as_it_was_written(made, half) -> None:
    sides, boxes, features = made
    kept = np.clip(features, -6e4, 6e4).astype(np.float16) if half else features
    pixels = read_npz(npz(features=kept, boxes=boxes, image_w=sides[0], image_h=sides[1]))
    shares = boxes / np.array([*sides, *sides], np.float32)
    size = shares[:, 2:] - shares[:, :2]
    direct = read_npz(npz(features=kept, norm_bb=np.concatenate((shares, size), 1), conf=np.arange(len(boxes)) / 9))
    assert np.array_equal(pixels.features, kept.astype(np.float32))
    assert np.allclose(pixels.boxes, direct.boxes, atol=1e-6)
    assert direct.best.tolist() == list(range(len(boxes)))[::-1]


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.sampled_from([4, 5]))
def test_damaged_base64_is_refused_and_never_read_as_other_numbers(noise, at, column) -> None:
    cells = tsv_line("1", (20, 10), np.array([[0, 0, 4, 4]], np.float32), np.ones((1, 3), np.float32)).split("\t")
    text = cells[column].strip()
    cells[column] = text[: at % len(text)] + base64.b64encode(noise).decode() + "*" + text[at % len(text) :]
    with pytest.raises(MediaError, match=r"line 1: (boxes|features) is not base64"):
        list(read_tsv("\t".join(cells)))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_file_of_regions_are_refused(noise) -> None:
    for source in (noise, b"PK\x03\x04" + noise):
        with pytest.raises(MediaError):
            _ = Regions(source).values


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_numbers_that_are_none_are_refused_with_their_region(place, wrong) -> None:
    features = np.ones((4, 5), np.float32)
    features.reshape(-1)[place % 20] = wrong
    boxes = np.tile(np.array([[0, 0, 5, 5]], np.float32), (4, 1))
    with pytest.raises(MediaError, match=f"features of region {place % 20 // 5} are not finite"):
        list(read_tsv(tsv_line("1", (9, 9), boxes, features)))


def line(**changes: str) -> str:
    cells = tsv_line("7", (20, 10), np.array([[0, 0, 4, 4], [1, 1, 9, 9]]), np.ones((2, 3))).strip().split("\t")
    names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
    return "\t".join(changes.get(name, cell) for name, cell in zip(names, cells, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_boxes": "3"}, "boxes holds 32 bytes, which is no float32 for each of 3 boxes"),
        ({"num_boxes": "1"}, "boxes hold 8 numbers, 1 boxes need 4"),
        ({"num_boxes": "two"}, "num_boxes is 'two', expected a whole number"),
        ({"num_boxes": "100000"}, "100000 boxes; expected 1 to 1000"),
        ({"image_w": "0"}, "a picture of 0 x 10 pixels"),
        ({"image_w": "8"}, "box 1 is 0.125, 0.1, 1.12, 0.9; expected"),
        ({"features": "AAAA"}, "features holds 3 bytes"),
        ({"features": ""}, "features holds 0 bytes"),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(changes: dict, message: str) -> None:
    with pytest.raises(MediaError, match=f"line 2: {message}"):
        list(read_tsv(line() + "\n" + line(**changes)))


def test_the_columns_of_lxmert_are_read_in_their_own_order() -> None:
    def packed(array: np.ndarray) -> str:
        return base64.b64encode(array.tobytes()).decode()

    boxes = np.array([[0, 0, 20, 5], [0, 5, 40, 10]], np.float32)
    ids, conf = np.array([3, 4]), np.array([0.2, 0.9], np.float32)
    cells = ["9", "10", "40", packed(ids), packed(conf), packed(ids), packed(conf), "2", packed(boxes),
             packed(np.ones((2, 6), np.float32))]  # fmt: skip
    ((name, found),) = read_tsv("\t".join(cells))
    assert name == "9"
    assert found.boxes.tolist() == [[0, 0, 0.5, 0.5], [0, 0.5, 1, 1]]
    assert found.best.tolist() == [1, 0]


def test_one_picture_of_several_is_taken_by_its_id() -> None:
    text = "".join(tsv_line(str(i), (9, 9), np.array([[0, 0, i, i]]), np.full((1, 2), i)) for i in (1, 2, 3))
    assert Regions(text.encode(), image_id="2").values.features.tolist() == [[2, 2]]
    with pytest.raises(MediaError, match="expected one picture, found 3; a Regions names its image_id"):
        _ = Regions(text.encode()).values
    with pytest.raises(MediaError, match="expected the picture '8' once, found 0"):
        _ = Regions(text.encode(), image_id="8").values


def test_arrays_that_are_missing_too_large_or_pickled_are_refused() -> None:
    with pytest.raises(MediaError, match="expected arrays features and norm_bb or boxes, found features"):
        read_npz(npz(features=np.ones((1, 2))))
    with pytest.raises(MediaError, match="boxes in pixels need image_w and image_h"):
        read_npz(npz(features=np.ones((1, 2)), boxes=np.ones((1, 4))))
    with pytest.raises(MediaError, match=r"unpacks to .*, the limit is"):
        read_npz(npz(features=np.zeros((900, 2048), np.float32), norm_bb=np.zeros((900, 4))), Limits(bytes=10_000))
    pickled = npz(features=np.array([{"a": 1}], dtype=object), norm_bb=np.zeros((1, 4)))
    with pytest.raises(MediaError, match=r"is not a .npy file of numbers"):
        read_npz(pickled)


def test_scores_of_another_number_and_too_many_regions_are_refused() -> None:
    with pytest.raises(MediaError, match="2 regions, but scores of 3"):
        RegionFeatures(features=np.ones((2, 3)), boxes=np.zeros((2, 4)), scores=np.ones(3))
    with pytest.raises(MediaError, match="1001 regions, the limit is 1000"):
        RegionFeatures(features=np.ones((1001, 3)), boxes=np.zeros((1001, 4)))
