"""Token types of a batch, and the token indices of each type, computed once for all layers that route by them.

    token_types [B, T] -> TokenTypes -> split(2) -> indices of type 0 [n0], indices of type 1 [n1]

Modules take the tensor or this object; a decoder creates the object once per forward, so that the sizes n0, n1 are read
from the device once and not in every projection of every layer.  Types on the host (as from a processor) are split
there, without synchronisation with an accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


class TokenTypes:
    """kinds: token types int64 [B, T]; must not be modified afterwards.

    counts: number of tokens of type 0, 1, ..., if known (from the processor); avoids a synchronisation on accelerators.
    """

    def __init__(self, kinds: Tensor, counts: Sequence[int] | None = None) -> None:
        self.kinds = kinds
        known = kinds.device.type != "cpu" and counts is not None and sum(counts) == kinds.numel()
        self._counts = tuple(counts) if known and counts is not None else None
        self._splits: dict[tuple[int, torch.device], Sequence[Tensor]] = {}

    @classmethod
    def of(cls, token_types: Tensor | TokenTypes | None) -> TokenTypes | None:
        """Wrap a tensor; other values are returned unchanged."""
        return cls(token_types) if isinstance(token_types, Tensor) else token_types

    def split(self, count: int, device: torch.device) -> Sequence[Tensor]:
        """Indices into the flattened batch of the tokens of type 0, 1, ... count - 1, on `device`."""
        key = count, device
        if key not in self._splits:
            self._splits[key] = split_by_kind(self.kinds.flatten(), count, device, self._counts)
        return self._splits[key]


def split_by_kind(
    kinds: Tensor, count: int, device: torch.device | None = None, counts: Sequence[int] | None = None
) -> list[Tensor]:
    """kinds int [n] -> int64 indices of each kind below `count`, in ascending order.

    counts: number of each kind; without them, the host synchronises with the device of `kinds` once.
    """
    order = kinds.argsort(stable=True)
    if counts is None:
        borders = torch.stack([(kinds < kind).sum() for kind in range(count + 1)]).tolist()
    else:
        borders = [sum(counts[:kind]) for kind in range(count + 1)]
    if device is not None:
        order = order.to(device)
    return [order[start:end] for start, end in pairwise(borders)]
