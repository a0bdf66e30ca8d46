"""Flax's own files against what the flax library writes (bytes stored below), and damage of every kind."""

import base64
import zlib
from pathlib import Path

import pytest
import torch

from polymodal.errors import WeightsError
from polymodal.weights.flax_file import is_flax, read_flax, save_flax
from polymodal.weights.folder import weights_in

TENSORS = {
    "encoder/layers_0/kernel": torch.arange(6.0).reshape(2, 3),
    "encoder/scale": torch.tensor([0.5, -2.0]).bfloat16(),
    "step": torch.tensor(7, dtype=torch.int32),
}
# flax 0.12.8: serialization.to_bytes of the same tables
BY_FLAX = (
    "eNprWp6al5yfklrUtCInsTK1qDjeoHFZdmpRXmrOcTXGyZOYmJen5eQnlhgbHZFgAIMGeyDhAERA"
    "3ADECxyWFicn5qQeF2KcPJFpRRJYuaHZERYGe4YDS4pLUguO8zFOnrA0Mw9kCAs7UDcAZoAmqA=="
)


def by_flax() -> bytes:
    return zlib.decompress(base64.b64decode(BY_FLAX))


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        torch.equal(x, TENSORS[name]) and x.dtype == TENSORS[name].dtype for name, x in found.items()
    )


def test_what_flax_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "small.bin").write_bytes(by_flax())
    assert is_flax(tmp_path / "small.bin")
    found = weights_in(tmp_path)
    assert found.format == "flax" and same(dict(found))
    assert found.shape("encoder/layers_0/kernel") == (2, 3)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    save_flax(TENSORS, tmp_path / "model.msgpack")
    assert same(dict(weights_in(tmp_path)))
    part = torch.empty(2)
    read_flax(tmp_path / "model.msgpack").read_into("encoder/layers_0/kernel", part, first=3)
    assert part.tolist() == [3.0, 4.0]


def test_torch_files_stay_torch_s(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "model.bin")
    assert not is_flax(tmp_path / "model.bin") and weights_in(tmp_path).format == "torch"


@pytest.mark.parametrize("cut", [1, 7, 30, 60, 90, -1])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "cut.msgpack").write_bytes(by_flax()[:cut])
    with pytest.raises(WeightsError, match="not a sound flax file"):
        read_flax(tmp_path / "cut.msgpack")


def test_changed_bytes_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    whole = by_flax()
    for place in range(0, len(whole), 5):
        for value in (0xDF,):
            (tmp_path / "bad.msgpack").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                dict(read_flax(tmp_path / "bad.msgpack"))
            except WeightsError:
                continue


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x81\xa1a" * 40 + b"\x80", "deep"),
        (b"\x81\xa1a\x81\xb9__msgpack_chunked_array__\xc3", "an array in pieces"),
        (b"\x81\xa1a\x07", "is no array"),
        (b"\x81\x05\x07", "expected a name"),
        (b"\x82\xa1a\x80\xa1a\x80", "holds no array"),
        (by_flax() + b"\x00", "1 bytes stand behind its table"),
    ],
)
def test_what_is_no_table_of_arrays_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "bad.msgpack").write_bytes(data)
    with pytest.raises(WeightsError, match=words):
        read_flax(tmp_path / "bad.msgpack")


def test_names_that_lie_inside_each_other_are_not_written(tmp_path: Path) -> None:
    one = torch.ones(1)
    with pytest.raises(WeightsError, match="lies below another array"):
        save_flax({"a": one, "a/b": one}, tmp_path / "x.msgpack")
    with pytest.raises(WeightsError, match="is a table already"):
        save_flax({"a/b": one, "a": one}, tmp_path / "x.msgpack")
