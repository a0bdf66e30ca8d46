"""Tensors that were cut over the ranks of tensor parallelism, one file a rank, read as whole ones (fairscale's layout).

    consolidated.00-of-02.model.pth + consolidated.01-of-02.model.pth  ->  ParallelShards(files, axis)

axis(name) -> the dimension that a tensor was cut along, None for one that every rank has whole.
Trap: a tensor that is cut must be read from all files, so its pages cannot be mapped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.folder import weights_in
from polymodal.weights.tensors import Shape, copy_into, dtype_of, shape_of

Axis = Callable[[str], int | None]
_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)(.*)")


class ParallelShards(Mapping[str, Tensor]):
    """The tensors of all `shards`, in the order of their ranks.

    Raises WeightsError for shards that hold other names, or another shape of a tensor.
    """

    def __init__(self, shards: Sequence[Mapping[str, Tensor]], axis: Axis) -> None:
        self.shards, self.axis = list(shards), axis
        names = set(self.shards[0])
        for rank, shard in enumerate(self.shards):
            if differing := sorted(names ^ set(shard)):
                raise WeightsError(f"shard {rank} does not belong to shard 0: only one of them holds {differing[0]!r}")
            for name in names:
                if shape_of(shard, name) != shape_of(self.shards[0], name):
                    shapes = [shape_of(each, name) for each in (self.shards[0], shard)]
                    raise WeightsError(f"shard {rank}: {name!r} has shape {shapes[1]}, in shard 0 it has {shapes[0]}")

    def __getitem__(self, name: str) -> Tensor:
        axis = self.axis(name)
        if axis is None or len(self.shards) == 1:
            return self.shards[0][name]
        return torch.cat([shard[name] for shard in self.shards], axis)

    def __contains__(self, name: object) -> bool:
        return name in self.shards[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shards[0])

    def __len__(self) -> int:
        return len(self.shards[0])

    def shape(self, name: str) -> Shape:
        """Shape of one whole tensor, without reading it where the files' reader can tell."""
        shape, axis = list(shape_of(self.shards[0], name)), self.axis(name)
        if axis is not None:
            shape[axis] *= len(self.shards)
        return tuple(shape)

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of one tensor, without reading it where the files' reader can tell."""
        return dtype_of(self.shards[0], name)

    def read_into(self, name: str, out: Tensor, first: int = 0) -> None:
        """Fill `out` with values of one tensor."""
        copy_into(self[name], out, first)


def parallel_shards(folder: Path, pattern: str, entry: Sequence[str], axis: Axis) -> Mapping[str, Tensor]:
    """The weights of a folder whose files are numbered as "00-of-02"; of other folders and single files as they are.

    Raises WeightsError where files are missing.
    """
    paths = sorted(folder.glob(pattern)) if folder.is_dir() else []
    found = [_NUMBERED.fullmatch(path.name) for path in paths]
    numbered = [(int(each[2]), int(each[3])) for each in found if each is not None]
    if not numbered:
        return weights_in(folder, entry)
    count = numbered[0][1]
    if sorted(numbered) != [(rank, count) for rank in range(count)]:
        names = ", ".join(path.name for path in paths)
        raise WeightsError(f"{folder}: expected {count} shards, numbered 0 to {count - 1}; found {names}")
    return ParallelShards([weights_in(path, entry) for path in paths], axis)
