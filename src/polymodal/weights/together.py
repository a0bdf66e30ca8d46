"""Tensors that lie in several files, read as one table: a checkpoint and the encoder it leaves out.

Together({"": checkpoint, "vision_tower.": encoder}) -> names with their prefixes, tensors read when asked for
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.weights.keytable import source_shape


class Together(Mapping[str, Tensor]):
    """`parts`: prefix -> tensors.  rename(prefix, name) -> the name it goes by, None: it is left out.

    Raises WeightsError when two parts give the same name.
    """

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, Tensor]],
        rename: Callable[[str, str], str | None] = lambda prefix, name: prefix + name,
    ) -> None:
        self._places: dict[str, tuple[Mapping[str, Tensor], str]] = {}
        for prefix, tensors in parts.items():
            for name in tensors:
                shown = rename(prefix, name)
                if shown in self._places:
                    raise WeightsError(f"tensor {shown!r} stands in two of the files that belong together")
                if shown is not None:
                    self._places[shown] = (tensors, name)

    def __getitem__(self, name: str) -> Tensor:
        tensors, own = self._places[name]
        return tensors[own]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> Sequence[int]:
        """Shape of one tensor, without reading it where the file's reader can tell."""
        tensors, own = self._places[name]
        return source_shape(tensors, own)
