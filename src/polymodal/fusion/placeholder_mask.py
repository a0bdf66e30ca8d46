"""Placeholder masks for official checkpoints that do not mark features by one id, and tensors under other names.

PlaceholderMask   input_ids, ids -> `image_mask` [B, T], 1 at each of them;  tensors renamed to the usual input names
SpanMask          input_ids, two ids -> a mask [B, T], 1 from each first to its last, both included
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class PlaceholderMask:
    """An input preparer.  ids: all ids of placeholders.  names: official name of a tensor -> its name here."""

    ids: tuple[int, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def input_names(self) -> frozenset[str]:
        return frozenset(self.names)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """`image_mask` int64 [B, T], and the tensors under their usual names."""
        renamed = {new: batch[old] for old, new in self.names.items() if batch.get(old) is not None}
        ids = batch["input_ids"]
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index in self.ids:  # one by one: a list of them would have to be copied to the device
            mask = mask | (ids == index)
        return {"image_mask": mask.long(), **renamed}


@dataclass(frozen=True, kw_only=True)
class SpanMask:
    """An input preparer: features stand from an id `first` to the next id `last`, whatever is between them.

    name: of the mask.
    """

    first: int
    last: int
    name: str

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The mask, int64 [B, T]."""
        ids = batch["input_ids"]
        opened, closed = (ids == self.first).cumsum(-1), (ids == self.last).cumsum(-1)
        return {self.name: ((opened > closed) | (ids == self.last)).long()}
