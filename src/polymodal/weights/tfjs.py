"""Weights of TensorFlow.js graph models: a model.json whose manifest lists tensors that lie end to end in other files.

    model.json: weightsManifest [{paths: ["model.bin"], weights: [{name, shape, dtype, quantization}, ...]}, ...]

Given are the weights: the manifest also lists the constants of the graph (axes, shapes, factors), which are whole
numbers or have no dimensions, and stay out.  Values of `quantization` float16 are read as half precision; kernels keep
TensorFlow's order, height x width x in x out (`operations.Transpose` turns them).

Traps: the graph itself is not read: whoever builds the module writes down what it computes.  The files of the manifest
must lie beside the model.json, under plain names.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import read_json
from polymodal.weights.limits import over, weights_limits
from polymodal.weights.raw import RawFile
from polymodal.weights.stored_views import MAX_SIDE
from polymodal.weights.tensors import TensorFile, TensorInfo, torch_dtype, unsound

_TYPES = {("float32", ""): ("F32", 4), ("float32", "float16"): ("F16", 2), ("int32", ""): ("I32", 4)}
Found = dict[str, tuple[RawFile, int, TensorInfo]]


def read_tfjs(path: str | Path) -> TensorFile:
    """Open a graph model by its model.json.  Raises WeightsError for a torn manifest and files that do not fit it."""
    path = Path(path)
    manifest = read_json(path)
    try:
        groups = manifest["weightsManifest"]
        if sum(len(group["weights"]) for group in groups) > (most := weights_limits().tensors):
            raise over("tensors", "its manifest lists more tensors", most)
        found: Found = {}
        for group in groups:
            _open_group(path, group, found)
    except WeightsError:
        raise
    except Exception as error:  # a manifest of another shape: KeyError, TypeError, ValueError
        raise unsound(path, "tfjs", error) from error

    def load(name: str) -> Tensor:
        file, start, info = found[name]
        return file.read(start, torch_dtype(info.dtype), info.shape)

    def fill(name: str, out: Tensor, first: int) -> None:
        file, start, info = found[name]
        dtype = torch_dtype(info.dtype)
        file.read_into(start + first * dtype.itemsize, dtype, out)

    weights = {name: info for name, (_, _, info) in found.items() if info.shape and info.dtype != "I32"}
    return TensorFile(path, "tfjs", weights, load, fill=fill)


def _open_group(path: Path, group: dict[str, Any], found: Found) -> None:
    """Add the tensors of one entry of the manifest: its one file, and where in it each begins."""
    (name,) = group["paths"]
    if not isinstance(name, str) or Path(name).name != name or "\\" in name:
        raise WeightsError(f"{path}: expected the plain name of a file beside it, found {name!r:.60}")
    beside = path.parent / name
    if not beside.is_file():
        raise WeightsError(f"{path}: its weights lie in {name}, which is not beside it")
    file, at = RawFile(beside), 0
    for weight in group["weights"]:
        info = _info(path, weight)
        if weight["name"] in found:
            raise ValueError(f"two tensors have the name {weight['name']!r:.60}")
        found[weight["name"]] = file, at, info
        at += info.bytes
    if at != (size := beside.stat().st_size):
        raise WeightsError(f"{path}: its manifest describes {at} bytes of {name}, which has {size}")


def _info(path: Path, weight: dict[str, Any]) -> TensorInfo:
    shape, stored = tuple(weight["shape"]), weight.get("quantization", {}).get("dtype", "")
    if (weight["dtype"], stored) not in _TYPES:
        raise WeightsError(
            f"{path}: tensor {weight['name']!r:.60} is {weight['dtype']!r:.20} stored as {stored or 'such'!r:.20}; "
            "expected float32, also as float16, or int32"
        )
    if not all(type(side) is int and 0 <= side < MAX_SIDE for side in shape):
        raise ValueError(f"tensor {weight['name']!r:.60} has the shape {shape!r:.60}")
    dtype, size = _TYPES[weight["dtype"], stored]
    return TensorInfo(shape, dtype, math.prod(shape) * size)
