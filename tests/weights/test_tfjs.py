"""TensorFlow.js graph models: what is written is read, and what does not fit its manifest is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymodal.errors import WeightsError
from polymodal.weights.read import read

HALF = {"dtype": "float16", "original_dtype": "float32"}


def write(folder: Path, weights: list[dict[str, Any]], values: bytes, paths: tuple[str, ...] = ("model.bin",)) -> Path:
    (folder / "model.bin").write_bytes(values)
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": paths, "weights": weights}]}))
    return folder / "model.json"


def test_weights_are_read_and_constants_of_the_graph_stay_out(tmp_path: Path) -> None:
    kernel = np.arange(6, dtype="f2").reshape(2, 3) / 7
    bias, axis, factor = np.array([1.5, -2.5], "f4"), np.array([1, 2], "i4"), np.array(0.25, "f4")
    weights = [
        {"name": "axis", "shape": [2], "dtype": "int32"},
        {"name": "a/kernel", "shape": [2, 3], "dtype": "float32", "quantization": HALF},
        {"name": "factor", "shape": [], "dtype": "float32"},
        {"name": "a/bias", "shape": [2], "dtype": "float32"},
    ]
    path = write(tmp_path, weights, b"".join(x.tobytes() for x in (axis, kernel, factor, bias)))
    tensors = read(path, "tfjs")
    assert list(tensors) == ["a/kernel", "a/bias"]
    assert tensors.shape("a/kernel") == (2, 3) and tensors.dtype("a/kernel") == torch.float16
    assert torch.equal(tensors["a/kernel"], torch.from_numpy(kernel))
    assert tensors["a/bias"].tolist() == [1.5, -2.5]
    part = torch.empty(2)
    tensors.read_into("a/kernel", part, first=4)
    assert torch.equal(part, torch.from_numpy(kernel).flatten()[4:].float())


ONE = {"name": "w", "shape": [2], "dtype": "float32"}


@pytest.mark.parametrize(
    ("weights", "size", "paths", "said"),
    [
        ([ONE], 4, ("model.bin",), "describes 8 bytes of model.bin, which has 4"),
        ([ONE], 12, ("model.bin",), "which has 12"),
        ([ONE, ONE], 16, ("model.bin",), "two tensors"),
        ([ONE | {"shape": [-2]}], 8, ("model.bin",), "shape"),
        ([ONE | {"shape": [2.5]}], 8, ("model.bin",), "shape"),
        ([ONE | {"dtype": "string"}], 8, ("model.bin",), "expected float32"),
        ([ONE | {"quantization": {"dtype": "uint8", "scale": 1, "min": 0}}], 2, ("model.bin",), "uint8"),
        ([ONE], 8, ("../model.bin",), "plain name"),
        ([ONE], 8, ("other.bin",), "not beside it"),
        ([ONE], 8, ("a.bin", "b.bin"), "tfjs"),
        ([{"shape": [2], "dtype": "float32"}], 8, ("model.bin",), "tfjs"),
    ],
)
def test_what_does_not_fit_its_manifest_is_refused(
    tmp_path: Path, weights: list[dict[str, Any]], size: int, paths: tuple[str, ...], said: str
) -> None:
    with pytest.raises(WeightsError, match=said):
        read(write(tmp_path, weights, bytes(size), paths), "tfjs")


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "{}", '{"weightsManifest": 3}', "not json"):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(WeightsError):
            read(tmp_path / "model.json", "tfjs")
