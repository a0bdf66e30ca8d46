"""What torch saves is read as torch itself reads it: all types of numbers, views, parameters, tables, plain values."""

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.errors import WeightsError
from polymodal.weights.read import read_torch

BASE = torch.randn(6, 8)
FLAT = torch.randn(50)
NAMES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
         "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")  # fmt: skip

NEW = NAMES[-5:]


def raw(x: Tensor) -> bytes:
    return x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def values() -> dict[str, Any]:
    named = torch.randn(3)
    named.of = "an attribute"  # type: ignore[attr-defined]
    odd = nn.Parameter(torch.randn(2))
    odd.of = "an attribute"  # type: ignore[attr-defined]
    return {
        **{name: (torch.randn(3, 5) * 10).to(getattr(torch, name)) for name in NAMES},
        "parameter": nn.Parameter(torch.randn(3)), "named": named, "odd": odd,
        "one": torch.tensor(3.5), "none": torch.zeros(0, 3), "tied": BASE, "also tied": BASE, "turned": BASE.t(),
        "rows": BASE[2:4], "columns": BASE[:, 3:5], "steps": BASE[::2, ::3], "diagonal": BASE.diagonal(),
        "spread": torch.randn(1, 4).expand(3, 4), "number spread": torch.tensor(2.0).expand(5, 5),
        "windows": FLAT.unfold(0, 5, 2),
    }  # fmt: skip


REST = {
    "step": 3, "rate": 1e-4, "big": 2**70, "below": -5, "text": "ä🙂", "nothing": None, "yes": True, "no": False,
    "bytes": b"\x00\xff", "shape": torch.Size([2, 3]), "type": torch.float16, "list": [1, [2, (3, 4)]],
    "set": {1, "a"}, "table": {1: "a", "b": {"c": 2.5}, (0, 1): "x"}, "counter": Counter("aab"),
    "ordered": OrderedDict(a=1, b=2), "empty": [(), [], {}, set(), ""],
}  # fmt: skip


@pytest.mark.parametrize("archive", [True, False])
def test_all_that_torch_saves(tmp_path: Path, archive: bool) -> None:
    path = tmp_path / "m.pt"
    held = {name: x for name, x in values().items() if archive or name not in NEW}  # torch cannot read those itself
    torch.save(held | REST, path, _use_new_zipfile_serialization=archive)
    expected, found = torch.load(path, weights_only=True), read_torch(path)
    tensors = {name: x for name, x in expected.items() if isinstance(x, Tensor)}
    assert list(found) == list(tensors)
    for name, x in tensors.items():
        assert found.shape(name) == tuple(x.shape) and found.dtype(name) == found[name].dtype == x.dtype, name
        assert raw(found[name]) == raw(x), name
    assert found.metadata == {name: x for name, x in expected.items() if name not in tensors}


@pytest.mark.parametrize("archive", [True, False])
def test_a_training_checkpoint(tmp_path: Path, archive: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimiser.step()
    whole = {"epoch": 3, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "args": {"lr": [0.1]}}
    torch.save(whole, tmp_path / "m.pt", _use_new_zipfile_serialization=archive)
    found = read_torch(tmp_path / "m.pt", "model")
    assert {name: x.tolist() for name, x in found.items()} == {n: x.tolist() for n, x in model.state_dict().items()}
    assert found.metadata["epoch"] == 3 and found.metadata["args"] == {"lr": [0.1]}


@pytest.mark.parametrize("archive", [True, False])
def test_what_is_no_plain_tensor_is_named(tmp_path: Path, archive: bool) -> None:
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
        "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
    }
    for name, value in odd.items():
        torch.save({"w": torch.ones(2), name: value}, tmp_path / "m.pt", _use_new_zipfile_serialization=archive)
        with pytest.raises(WeightsError, match=f"tensor '{name}' is stored as .* which is not read"):
            read_torch(tmp_path / "m.pt")


def test_values_of_the_other_order_of_bytes(tmp_path: Path) -> None:
    """An archive that says it is big-endian has every number turned round."""
    import zipfile

    torch.save({"w": BASE, "c": torch.randn(3, dtype=torch.complex64)}, tmp_path / "m.pt")
    expected = torch.load(tmp_path / "m.pt", weights_only=True)
    with zipfile.ZipFile(tmp_path / "m.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if "/data/" in name:
                data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
            new.writestr(name, b"big" if name.endswith("byteorder") else data)
    found = read_torch(tmp_path / "b.pt")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
