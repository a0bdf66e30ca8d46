"""What is in a weights file: format, tensors, types, bytes and metadata, without reading the values.

For where a user hands over a file and asks what it is.  Only here may the format follow from the file's name; loading
always takes it from the source record.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.errors import WeightsError
from polymodal.weights.read import TensorFile, read, read_torch

_ENDINGS = {
    ".safetensors": "safetensors",
    ".bin.index.json": "torch",
    ".index.json": "safetensors",
    ".gguf": "gguf",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".npz": "npz",
}
_LONG = 200
_MANY = 1_000


@dataclass(frozen=True, kw_only=True)
class Description:
    """tensors: how many.  parameters: values in them.  bytes: stored.  dtypes: {stored type: tensors}."""

    path: Path
    format: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    metadata: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values under stable keys, for `--json`."""
        return {**self.__dict__, "path": str(self.path)}


def describe(path: str | Path, format: str = "", entry: str = "") -> Description:
    """Open a file and describe it; the format follows from the name when it is not given.

    entry: where the tensors of a torch file lie, when they are not at its top ('model_state_dict').

    Raises WeightsError for an unknown ending and for everything the readers refuse.
    """
    path = Path(path)
    format = format or format_of(path)
    return describe_tensors(read_torch(path, entry) if format == "torch" and entry else read(path, format))


def describe_tensors(tensors: TensorFile) -> Description:
    """Describe a file that is open already."""
    infos = tensors.infos.values()
    return Description(
        path=tensors.path,
        format=tensors.format,
        tensors=len(infos),
        parameters=sum(info.values for info in infos),
        bytes=sum(info.bytes for info in infos),
        dtypes=dict(Counter(info.dtype for info in infos).most_common()),
        metadata={name: _short(value) for name, value in tensors.metadata.items()},
    )


def format_of(path: Path) -> str:
    """The format that a file's ending stands for."""
    for ending, format in _ENDINGS.items():
        if path.name.lower().endswith(ending):
            return format
    raise WeightsError(f"{path}: unknown kind of weights file, expected one of {', '.join(_ENDINGS)}")


def _short(value: Any) -> Any:
    """Metadata for people: long lists and texts become their size, as does a value that is large all in all."""
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"{len(value)} entries"
    if isinstance(value, str) and len(value) > _LONG:
        return f"{len(value)} characters"
    if isinstance(value, list | tuple | dict) and sum(1 for _ in itertools.islice(_inside(value), _MANY)) == _MANY:
        return f"{len(value)} entries"
    return value if isinstance(value, str | int | float | bool | list | tuple | dict | None) else str(value)


def _inside(value: Any) -> Iterator[Any]:
    """Every value below, as often as it is reached."""
    for each in value.values() if isinstance(value, dict) else value:
        yield each
        if isinstance(each, list | tuple | dict):
            yield from _inside(each)
