"""The weights of a published folder, whichever of the usual files hold them, and the table that fits their names.

    model.safetensors.index.json | model.safetensors | pytorch_model.bin.index.json | pytorch_model.bin
    | the only *.safetensors | the only *.pt, *.pth, *.bin

Traps: an index is read first, since a folder may hold shards of it that look whole; of several loose files none is
chosen, because a checkpoint must not be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from polymodal.errors import WeightsError
from polymodal.weights.keytable import KeyTable
from polymodal.weights.read import TensorFile, read, read_torch

_NAMED = (
    ("model.safetensors.index.json", "safetensors"),
    ("model.safetensors", "safetensors"),
    ("pytorch_model.bin.index.json", "torch"),
    ("pytorch_model.bin", "torch"),
)
_LOOSE = (("*.safetensors", "safetensors"), ("*.pt", "torch"), ("*.pth", "torch"), ("*.bin", "torch"), ("*.npz", "npz"))


def weights_in(place: Path, entry: Sequence[str] = ("",)) -> TensorFile:
    """The tensors of a folder, or of one file; entry: where they lie inside a torch file, tried in order.

    Raises WeightsError when there are none, several, or damaged ones.
    """
    if place.is_file():
        return _open(place, {".safetensors": "safetensors", ".npz": "npz"}.get(place.suffix, "torch"), entry)
    for name, format in _NAMED:
        if (place / name).is_file():
            return _open(place / name, format, entry)
    for pattern, format in _LOOSE:
        found = sorted(place.glob(pattern))
        if len(found) == 1:
            return _open(found[0], format, entry)
        if found:
            names = ", ".join(path.name for path in found[:4])
            raise WeightsError(f"{place} holds {len(found)} weights files and no index ({names}); name the one to load")
    raise WeightsError(f"{place} holds no weights; looked for {', '.join(name for name, _ in _NAMED)}, *.pt, *.pth")


def _open(path: Path, format: str, entry: Sequence[str]) -> TensorFile:
    if format != "torch" or path.name.endswith(".index.json"):
        return read(path, format)
    problem: WeightsError | None = None
    for place in entry:
        try:
            return read_torch(path, place or None)
        except WeightsError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def fitting(tables: Sequence[KeyTable], source: Iterable[str], target: Iterable[str]) -> KeyTable:
    """The table that fits these names; raises WeightsError with the problems of the nearest one."""
    names, places = list(source), list(target)
    reports = [table.check(names, places) for table in tables]
    best = min(range(len(tables)), key=lambda i: len(reports[i].problems))
    reports[best].require()
    return tables[best]


class _NoRandom(TorchFunctionMode):
    """Random first values are skipped: every parameter is about to be filled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_RANDOM = frozenset(
    {Tensor.normal_, Tensor.uniform_}
    | {getattr(torch.nn.init, f"{name}_") for name in ("normal", "uniform", "trunc_normal", "kaiming_uniform",
                                                       "kaiming_normal", "xavier_uniform", "xavier_normal")}
)  # fmt: skip


@contextmanager
def without_random() -> Iterator[None]:
    """Build modules whose parameters are all filled afterwards, without drawing numbers for them first."""
    with _NoRandom():
        yield
