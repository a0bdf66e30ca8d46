"""Arrays: the same numbers from everywhere they may come from, nothing executed, nothing larger than allowed."""

import contextlib
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from polymodal.data.array import read_array
from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.media import Array, Image, guess_media
from polymodal.data.messages import conversation
from polymodal.errors import MediaError, PromptError


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


@given(
    arrays.arrays(
        st.sampled_from(["float32", "float64", "int16", "uint8"]),
        arrays.array_shapes(max_dims=3, max_side=5),
    )
)
def test_every_source_gives_the_same_numbers(array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        wanted = array.astype(np.float32) if array.dtype.kind == "f" else array
    for source in (array, npy(array), torch.from_numpy(array), np.asfortranarray(array)):
        found = read_array(source, DEFAULT_LIMITS)
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f")


def test_files_are_known_by_their_content(tmp_path) -> None:
    path = tmp_path / "cloud.jpg"
    path.write_bytes(npy(np.ones((3, 3))))
    record = guess_media(path)
    assert isinstance(record, Array) and record.values.shape == (3, 3) and record.modality == ""
    assert record.content_hash == Array(np.ones((3, 3))).content_hash != Array(np.ones(9)).content_hash
    assert repr(Array(np.ones((2, 3)), modality="imu")) == "Array(float64 [2, 3], imu)"


class Bomb:
    def __reduce__(self):
        raise AssertionError("executed")


@given(st.integers(6, 200), st.integers(0, 255))
def test_damaged_files_are_refused_or_read(place: int, byte: int) -> None:
    data = bytearray(npy(np.arange(20.0)))
    data[place % len(data)] = byte
    with contextlib.suppress(MediaError):
        assert read_array(bytes(data), DEFAULT_LIMITS).size > 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (npy(np.array([{"a": 1}]), pickled=True), "not a .npy file of numbers"),
        (npy(np.zeros(1000))[:200], "damaged"),
        (b"\x93NUMPY\x01\x00" + b"\x00" * 20, "damaged"),
        (pickle.dumps([1, 2]), "damaged"),
        (np.array(["a"]), "expected numbers"),
        (np.zeros((0, 3)), r"expected numbers, found float64 \[0, 3\]"),
        ([[1.0], [1.0, 2.0]], "rows of numbers of equal length"),
        ({"a": 1}, "expected numbers"),
    ],
)
def test_what_holds_no_numbers_is_named(source, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_array(source, DEFAULT_LIMITS)


def test_limits_hold_for_lists_and_for_what_a_header_promises() -> None:
    with pytest.raises(MediaError, match="the limit is 100 bytes"):
        read_array([1.0] * 100, Limits(bytes=100))
    huge = npy(np.zeros(4)).replace(b"(4,)", b"(400000000000,)"[:15])
    with pytest.raises(MediaError, match="damaged"):
        read_array(huge, DEFAULT_LIMITS)


def test_parts_of_messages_become_arrays_and_pictures_of_depth(tmp_path) -> None:
    series = [[0.0, 1.0], [2.0, 3.0]]
    parts = [{"type": "imu", "imu": series}, {"type": "smell", "smell": np.ones(3)}, {"type": "depth", "depth": b"x"}]
    first, second, third = conversation([{"role": "user", "content": parts}], files=False)[0].parts
    assert isinstance(first, Array) and first.modality == "imu" and first.values.tolist() == series
    assert isinstance(second, Array) and second.modality == "smell"
    assert isinstance(third, Image) and third.modality == "depth"
    renamed = conversation([{"role": "user", "content": [{"type": "depth", "depth": Image(b"x")}]}])[0].parts[0]
    assert renamed == Image(b"x", modality="depth")
    with pytest.raises(PromptError, match="files of this machine"):
        conversation([{"role": "user", "content": [{"type": "imu", "imu": str(tmp_path)}]}], files=False)
    with pytest.raises(PromptError, match="expected depth, found array"):
        conversation([{"role": "user", "content": [{"type": "depth", "depth": Array([1.0])}]}])
