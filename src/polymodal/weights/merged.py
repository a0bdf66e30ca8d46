"""Tensors of several files, read as one mapping: a checkpoint and the encoder it leaves out.

    MergedTensors({"": checkpoint, "vision_tower.": encoder})    names with prefixes
    MergedTensors.of({"vision.weight": (encoder, "weight")})    name by name: a file and its name there
    MergedTensors.of(locations(checkpoint) | locations(encoder, "vision_tower."))    a later file may replace

Nothing is read before it is asked for; a tensor's file is asked as tensors.py says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.tensors import Shape, dtype_of, map_tensor, read_into, shape_of

Locations = dict[str, tuple[Mapping[str, Tensor], str]]


def locations(tensors: Mapping[str, Tensor], prefix: str = "") -> Locations:
    """Where the tensors of one file are found, under their names with a prefix: for `MergedTensors.of`."""
    return {prefix + name: (tensors, name) for name in tensors}


class MergedTensors(Mapping[str, Tensor]):
    """`parts`: prefix -> tensors.  rename(prefix, name) -> the name it goes by, None: it is left out.

    Raises WeightsError when two parts give the same name.
    """

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, Tensor]],
        rename: Callable[[str, str], str | None] = lambda prefix, name: prefix + name,
    ) -> None:
        self.locations: Locations = {}
        for prefix, tensors in parts.items():
            for name in tensors:
                shown = rename(prefix, name)
                if shown in self.locations:
                    raise WeightsError(f"tensor {shown!r} stands in two of the files that belong together")
                if shown is not None:
                    self.locations[shown] = (tensors, name)

    @classmethod
    def of(cls, found: Mapping[str, tuple[Mapping[str, Tensor], str]]) -> MergedTensors:
        """The tensors at these locations under these names."""
        made = cls({})
        made.locations.update(found)
        return made

    def __getitem__(self, name: str) -> Tensor:
        tensors, own = self.locations[name]
        return tensors[own]

    def __contains__(self, name: object) -> bool:
        return name in self.locations

    def __iter__(self) -> Iterator[str]:
        return iter(self.locations)

    def __len__(self) -> int:
        return len(self.locations)

    def shape(self, name: str) -> Shape:
        """Shape of one tensor, without reading it where the file's reader can tell."""
        return shape_of(*self.locations[name])

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of one tensor, without reading it where the file's reader can tell."""
        return dtype_of(*self.locations[name])

    def read_into(self, name: str, out: Tensor, first: int = 0) -> None:
        """Fill `out` with values of one tensor."""
        read_into(*self.locations[name], out, first)

    def map(self, name: str) -> Tensor | None:
        """One tensor in the pages of its file, where that can be."""
        return map_tensor(*self.locations[name])
