"""Files of a checkpoint that several processes write together: each its own part, read again by any number of them.

    model.safetensors                               one process: everything
    model.0.safetensors  model.1.safetensors  ...   several: of a tensor that is shared out its rows, in the order of
                                                    the processes; any other tensor stands in the first part alone

    own(tensors, ranks) -> what this process writes      Parts(folder, "model", count).like(name, target) -> its share

A process reads the rows it needs and no others, so that no machine ever holds the whole of a model that is shared out.
Trap: rows are shared out along the first dimension, as `fully_shard` does when it is not told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.train.ranks import Ranks, local, rows_of


def file_name(name: str, part: int, count: int) -> str:
    """ "model" -> "model.safetensors", or "model.1.safetensors" where there are several parts."""
    return f"{name}.safetensors" if count == 1 else f"{name}.{part}.safetensors"


def own(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """What this process writes of some tensors: its rows, and if it is the first also what is not shared out.

    Copies: a file takes no tensors that share memory.
    """
    mine = {name: tensor for name, tensor in tensors.items() if ranks.first or rows_of(tensor) is not None}
    return {name: local(tensor.detach()).to("cpu", copy=True).contiguous() for name, tensor in mine.items()}


class Parts:
    """The tensors that a checkpoint keeps under one name ("model", "optimiser", ...), from all files of that name."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self.folder = folder
        self._files: list[Any] = [
            safe_open(folder / file_name(name, part, count), framework="pt") for part in range(count)
        ]

    @cached_property
    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._files[0].keys())

    def shape(self, name: str) -> list[int]:
        """Of a whole tensor."""
        shapes = [file.get_slice(name).get_shape() for file in self._holding(name)]
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]] if len(shapes) > 1 else shapes[0]

    def whole(self, name: str) -> Tensor:
        """A tensor, put together."""
        pieces = [file.get_tensor(name) for file in self._holding(name)]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def like(self, name: str, target: Tensor) -> Tensor:
        """A tensor, or those rows of it that this process holds of `target`.  Raises ConfigError for another shape."""
        if self.shape(name) != list(target.shape):
            raise ConfigError(
                f"{self.folder}: {name} has shape {self.shape(name)}, the model's {list(target.shape)}; "
                "it is the checkpoint of another model"
            )
        rows = rows_of(target)
        return self.whole(name) if rows is None else self._rows(name, rows)

    def _rows(self, name: str, rows: range) -> Tensor:
        pieces, first = [], 0
        for file in self._holding(name):
            piece = file.get_slice(name)
            count = piece.get_shape()[0]
            low, high = max(rows.start - first, 0), min(rows.stop - first, count)
            if low < high:
                pieces.append(piece[low:high])
            first += count
        if not pieces:  # there are more processes than rows
            return self._files[0].get_slice(name)[:0]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _holding(self, name: str) -> list[Any]:
        return [file for file in self._files if name in file.keys()]  # noqa: SIM118  (files are no mappings)
