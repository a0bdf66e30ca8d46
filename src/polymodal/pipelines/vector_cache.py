"""A cache of vectors of texts that come again, as the labels of zero-shot classes do.

    keys -> cached ones, and those made now, all together -> [N, E]

Bounded in bytes, least recently used first; cleared when the weights that made them change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from polymodal.nn.watch import WeightsWatch

CACHE_BYTES = 64 * 2**20  # a thousand ImageNet classes of CLIP ViT-L/14 take 3 MiB
Key = TypeVar("Key", bound=Hashable)


class VectorCache:
    """Vectors [E] by key, made from the weights of `module`."""

    def __init__(self, module: nn.Module, limit_bytes: int = CACHE_BYTES) -> None:
        self._watch = WeightsWatch(module)
        self._limit = limit_bytes
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, keys: Sequence[Key], make: Callable[[list[Key]], Tensor]) -> Tensor:
        """[len(keys), E]; `make` gets the keys that are not cached, each once, and returns their rows."""
        with self._lock:
            if self._watch.changed():
                self._entries.clear()
                self.nbytes = 0
            found: dict[Key, Tensor] = {key: self._entries[key] for key in keys if key in self._entries}
        if new := [key for key in dict.fromkeys(keys) if key not in found]:
            # A row of the batch alone would keep the memory of all of it.
            found |= {key: row.clone() for key, row in zip(new, make(new), strict=True)}
        self._store(found)
        return torch.stack([found[key] for key in keys])

    def _store(self, used: dict[Key, Tensor]) -> None:
        with self._lock:
            for key, row in used.items():
                if key not in self._entries:
                    self._entries[key] = row
                    self.nbytes += row.nbytes
                self._entries.move_to_end(key)
            while self.nbytes > self._limit and self._entries:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes
