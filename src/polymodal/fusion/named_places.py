"""Where features go, for checkpoints of official code whose placeholder has several spellings.

input_ids, several ids -> `image_places` [B, T], 1 where a feature goes;  tensors under another name -> the usual one
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class NamedPlaces:
    """`ids` mark a place each; `names`: how official code calls a tensor -> how it is called here."""

    ids: tuple[int, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def input_names(self) -> frozenset[str]:
        return frozenset(self.names)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds `image_places` int64 [B, T] and the tensors by their usual names."""
        found = {new: batch[old] for old, new in self.names.items() if batch.get(old) is not None}
        ids = batch["input_ids"]
        places = torch.zeros_like(ids, dtype=torch.bool)
        for index in self.ids:  # one by one: a list of them would have to be copied to the device
            places = places | (ids == index)
        return {"image_places": places.long(), **found}
