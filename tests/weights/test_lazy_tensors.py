"""Values read straight into memory are those of the whole tensor, from every format and through every wrapper."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from polymodal.errors import WeightsError
from polymodal.weights.merged import MergedTensors
from polymodal.weights.read import read
from polymodal.weights.tensors import LazyTensors, TensorFile, dtype_of, read_into, shape_of
from polymodal.weights.torch_file import read_torch

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
TENSORS = {
    "float": torch.randn(5, 7),
    "half": torch.randn(3, 40, 2).half(),
    "brain": torch.randn(9).bfloat16(),
    "whole": torch.arange(6).reshape(2, 3),
    "flag": torch.tensor([True, False, True]),
    "one": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "long": torch.randn(70_001),
}
VIEWS = {"turned": BASE.t(), "part": BASE[1:3, 2:5], "row": BASE[2], "twice": BASE}


def written(folder: Path, format: str) -> TensorFile:
    path = folder / "weights"
    if format == "safetensors":
        save_file(TENSORS, path)
    elif format in ("torch", "legacy"):
        torch.save({"model": TENSORS | VIEWS}, path, _use_new_zipfile_serialization=format == "torch")
    elif format == "npz":
        np.savez(path.with_suffix(".npz"), **{name: x.numpy() for name, x in TENSORS.items() if name != "brain"})
        path = path.with_suffix(".npz")
    else:
        writer = gguf.GGUFWriter(path, "llama")
        for name in ("float", "half", "long"):
            writer.add_tensor(name, TENSORS[name].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return read_torch(path, "model") if format in ("torch", "legacy") else read(path, format)


FORMATS = ("safetensors", "torch", "legacy", "npz", "gguf")


@pytest.mark.parametrize("format", FORMATS)
def test_shapes_dtypes_and_values(tmp_path: Path, format: str):
    opened = written(tmp_path, format)
    assert isinstance(opened, LazyTensors)
    given = TENSORS | VIEWS
    for name in opened:
        wanted, found = given[name], opened[name]
        assert opened.shape(name) == tuple(wanted.shape) and opened.dtype(name) == wanted.dtype
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype
        for dtype in (wanted.dtype, torch.float64):
            out = torch.empty(wanted.shape, dtype=dtype)
            opened.read_into(name, out)
            assert torch.equal(out, wanted.to(dtype)), (name, dtype)
    with pytest.raises(KeyError):
        opened.read_into("absent", torch.empty(1))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_part_of_a_tensor(tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject):
    opened = written(tmp_path_factory.mktemp("part"), format)
    name = data.draw(st.sampled_from(sorted(opened)))
    whole = (TENSORS | VIEWS)[name].reshape(-1)
    first = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - first))
    out = torch.empty(count, dtype=data.draw(st.sampled_from([whole.dtype, torch.float64])))
    opened.read_into(name, out, first)
    assert torch.equal(out, whole[first : first + count].to(out.dtype))


def test_what_was_read_has_memory_of_its_own(tmp_path: Path):
    """The file may be written over, cut or deleted afterwards; writing to a tensor does not change the file."""
    for format in ("safetensors", "torch"):
        opened = written(tmp_path, format)
        first = opened["float"]
        path = tmp_path / "weights"
        first.zero_()
        assert torch.equal(opened["float"], TENSORS["float"])
        kept = opened["float"]
        path.write_bytes(b"\0" * 10)
        assert torch.equal(kept, TENSORS["float"])
        with pytest.raises(WeightsError, match="was changed while it was being read"):
            opened["half"]
        path.unlink()
        with pytest.raises(WeightsError, match="weights"):
            opened["half"]


def test_torch_archives_are_not_read_on_opening(tmp_path: Path):
    opened = written(tmp_path, "torch")
    assert opened.fill is not None, "values are read from the archive"


def test_archives_of_unusual_kind_are_read_by_torch_itself(tmp_path: Path):
    """Values of the other byte order or compressed ones cannot be read as they lie in the file."""
    written(tmp_path, "torch")
    path, other = tmp_path / "weights", tmp_path / "other"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for item in old.infolist():
            new.writestr(item, b"big" if item.filename.endswith("byteorder") else old.read(item))
    opened = read_torch(other, "model")
    assert opened.fill is None


class OnlyShapes(Mapping):
    """A mapping that knows nothing of the protocol."""

    def __getitem__(self, name: str) -> torch.Tensor:
        return TENSORS[name]

    def __iter__(self):
        return iter(TENSORS)

    def __len__(self) -> int:
        return len(TENSORS)


def test_wrappers_and_plain_mappings(tmp_path: Path):
    opened = written(tmp_path, "safetensors")
    joined = MergedTensors({"a.": opened, "b.": OnlyShapes(), "c.": TENSORS})
    picked = MergedTensors.of({"x": (joined, "a.half"), "y": (TENSORS, "half")})
    assert isinstance(joined, LazyTensors) and set(picked) == {"x", "y"}
    for tensors, name in [(joined, "a.half"), (joined, "b.half"), (joined, "c.half"), (picked, "x"), (picked, "y")]:
        out = torch.empty(4, 3)
        read_into(tensors, name, out, first=5)
        assert torch.equal(out, TENSORS["half"].reshape(-1)[5:17].view(4, 3).float())
        assert shape_of(tensors, name) == (3, 40, 2) and dtype_of(tensors, name) == torch.float16
    with pytest.raises(WeightsError, match="'float' stands in two"):
        MergedTensors({"": opened, "b": TENSORS}, lambda prefix, name: name)
