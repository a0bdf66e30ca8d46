"""The kind of every token of a batch, and the places of each kind, found once for all the layers that route by it.

    token_types [B, T] -> TokenTypes -> split(2) -> places of kind 0 [n0], places of kind 1 [n1]

Modules take the tensor itself or this record; a decoder makes the record once per forward, so that the numbers n0, n1
are asked of the device once and not by every projection of every layer.  Kinds that lie on the host (as a processor
makes them) are split there, and an accelerator is not asked at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


class TokenTypes:
    """kinds: int64 [B, T], not to be changed while the record lives.

    counts: how many tokens there are of kind 0, 1, ..., where that is known (a processor says it): on an accelerator
    the kinds are then not read at all.
    """

    def __init__(self, kinds: Tensor, counts: Sequence[int] | None = None) -> None:
        self.kinds = kinds
        known = kinds.device.type != "cpu" and counts is not None and sum(counts) == kinds.numel()
        self._counts = tuple(counts) if known and counts is not None else None
        self._splits: dict[tuple[int, torch.device], Sequence[Tensor]] = {}

    @classmethod
    def of(cls, given: Tensor | TokenTypes | None) -> TokenTypes | None:
        """The record of a tensor; a record or None as it is."""
        return cls(given) if isinstance(given, Tensor) else given

    def split(self, count: int, device: torch.device) -> Sequence[Tensor]:
        """Places in the flattened batch of the tokens of kind 0, 1, ... count - 1, on `device`; others in none."""
        key = count, device
        if key not in self._splits:
            self._splits[key] = split_by_kind(self.kinds.flatten(), count, device, self._counts)
        return self._splits[key]


def split_by_kind(
    kinds: Tensor, count: int, device: torch.device | None = None, counts: Sequence[int] | None = None
) -> list[Tensor]:
    """kinds int [n] -> places int64 of each kind below `count`, in order.

    counts: of each kind; without them the device of the kinds is asked once.
    """
    order = kinds.argsort(stable=True)
    if counts is None:
        borders = torch.stack([(kinds < kind).sum() for kind in range(count + 1)]).tolist()
    else:
        borders = [sum(counts[:kind]) for kind in range(count + 1)]
    if device is not None:
        order = order.to(device)
    return [order[start:end] for start, end in pairwise(borders)]
