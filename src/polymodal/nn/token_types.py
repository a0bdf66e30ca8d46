"""The kind of every token of a batch, and the places of each kind, found once for all the layers that route by it.

    token_types [B, T] -> TokenTypes -> split(2) -> places of kind 0 [n0], places of kind 1 [n1]

Modules take the tensor itself or this record; a decoder makes the record once per forward, so that the numbers n0, n1
are asked of the device once and not by every projection of every layer.  Kinds that lie on the host (as a processor
makes them) are split there, and an accelerator is not asked at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TokenTypes:
    """kinds: int64 [B, T].  Not to be changed while the record lives."""

    def __init__(self, kinds: Tensor) -> None:
        self.kinds = kinds
        self._splits: dict[tuple[int, torch.device], Sequence[Tensor]] = {}

    @classmethod
    def of(cls, given: Tensor | TokenTypes | None) -> TokenTypes | None:
        """The record of a tensor; a record or None as it is."""
        return cls(given) if isinstance(given, Tensor) else given

    def split(self, count: int, device: torch.device) -> Sequence[Tensor]:
        """Places in the flattened batch of the tokens of kind 0, 1, ... count - 1, on `device`; others in none."""
        key = count, device
        if key not in self._splits:
            self._splits[key] = split_by_kind(self.kinds.flatten(), count, device)
        return self._splits[key]


def split_by_kind(kinds: Tensor, count: int, device: torch.device | None = None) -> list[Tensor]:
    """kinds int [n] -> places int64 of each kind below `count`, in order; one read of the kinds' own device."""
    order = kinds.argsort(stable=True)
    borders = torch.stack([(kinds < kind).sum() for kind in range(count + 1)]).tolist()
    if device is not None:
        order = order.to(device)
    return [order[start:end] for start, end in zip(borders, borders[1:], strict=False)]
