"""The weights of a published folder, whichever of the usual files hold them.

    model.safetensors.index.json | model.safetensors | pytorch_model.bin.index.json | pytorch_model.bin
    | the only *.safetensors | the only *.pt, *.pth, *.bin, *.ckpt, *.npz, *.msgpack

Traps: an index is read first, since a folder may hold shards of it that look whole; of several loose files none is
chosen, because a checkpoint must not be guessed; a .bin may be Flax's, which its first bytes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polymodal.errors import WeightsError
from polymodal.weights.flax_file import is_flax
from polymodal.weights.read import TensorFile, read, read_torch

_NAMED = (
    ("model.safetensors.index.json", "safetensors"),
    ("model.safetensors", "safetensors"),
    ("pytorch_model.bin.index.json", "torch"),
    ("pytorch_model.bin", "torch"),
)
_LOOSE = (
    ("*.safetensors", "safetensors"),
    ("*.pt", "torch"),
    ("*.pth", "torch"),
    ("*.bin", "torch"),
    ("*.ckpt", "torch"),
    ("*.npz", "npz"),
    ("*.msgpack", "flax"),
)
_SUFFIXES = {".safetensors": "safetensors", ".npz": "npz", ".msgpack": "flax"}


def weights_in(path: Path, entry: Sequence[str] = ("",)) -> TensorFile:
    """The tensors of a folder, or of one file; entry: keys under which a torch file may nest them, tried in order.

    Raises WeightsError when there are none, several, or damaged ones.
    """
    if path.exists() and not path.is_dir():
        return _open(path, _SUFFIXES.get(path.suffix.lower(), "torch"), entry)
    for name, format in _NAMED:
        if (path / name).is_file():
            return _open(path / name, format, entry)
    for pattern, format in _LOOSE:
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return _open(found[0], format, entry)
        if found:
            names = ", ".join(each.name for each in found[:4])
            raise WeightsError(f"{path} holds {len(found)} weights files and no index ({names}); name the one to load")
    looked_for = ", ".join((*(name for name, _ in _NAMED), "*.pt", "*.pth", "*.bin", "*.ckpt"))
    raise WeightsError(f"{path} holds no weights; looked for {looked_for}")


def _open(path: Path, format: str, entry: Sequence[str]) -> TensorFile:
    if format == "torch" and path.suffix == ".bin" and is_flax(path):
        format = "flax"
    if format != "torch" or path.name.endswith(".index.json"):
        return read(path, format)
    problem: WeightsError | None = None
    for key in entry:
        try:
            return read_torch(path, key or None)
        except WeightsError as error:
            problem = problem or error
    assert problem is not None
    raise problem
