"""Vectors of texts that come again and again, as the labels of zero-shot classes do.

    keys -> those held, and those made now, all together -> [N, E]

Bounded in bytes, the longest unused go first; all go when the weights that made them change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from polymodal.nn.watch import WeightsWatch

KEPT_BYTES = 64 * 2**20  # a thousand ImageNet classes of CLIP ViT-L/14 take 3 MiB
Key = TypeVar("Key", bound=Hashable)


class KeptVectors:
    """Vectors [E] by key, made from the weights of `module`."""

    def __init__(self, module: nn.Module, limit_bytes: int = KEPT_BYTES) -> None:
        self._watch = WeightsWatch(module)
        self._limit = limit_bytes
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def of(self, keys: Sequence[Key], make: Callable[[list[Key]], Tensor]) -> Tensor:
        """[len(keys), E]; `make` gets the keys that are not held, each once, and gives their rows."""
        with self._lock:
            if self._watch.changed():
                self._held.clear()
                self.nbytes = 0
            found: dict[Key, Tensor] = {key: self._held[key] for key in keys if key in self._held}
        if new := [key for key in dict.fromkeys(keys) if key not in found]:
            # A row of the batch alone would keep the memory of all of it.
            found |= {key: row.clone() for key, row in zip(new, make(new), strict=True)}
        self._keep(found)
        return torch.stack([found[key] for key in keys])

    def _keep(self, used: dict[Key, Tensor]) -> None:
        with self._lock:
            for key, row in used.items():
                if key not in self._held:
                    self._held[key] = row
                    self.nbytes += row.nbytes
                self._held.move_to_end(key)
            while self.nbytes > self._limit and self._held:
                self.nbytes -= self._held.popitem(last=False)[1].nbytes
