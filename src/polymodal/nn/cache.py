"""Static key/value cache: allocated once, written in place, passed as an argument.

    cache = KVCache.allocate(layers=..., batch=..., kv_heads=..., head_dim=..., capacity=..., dtype, device)
    for each layer i:  k_all, v_all = cache.layer(i).update(k, v)     # views of cached and new keys and values
    once per forward:  cache.advance(T)

``length`` changes only in ``advance``, so all layers of one forward write at the same offset.  ``LayerCache.source``
holds the keys and values of cross-attention: computed in the first call, reused afterwards.
Layers know the shared length, not the cache they belong to: without a reference cycle a dropped cache is freed at once.
Trap: ``update`` returns views, which are overwritten when the cache is truncated and refilled.
"""

import torch
from torch import Tensor

from polymodal.errors import PromptError

ALL = slice(None)


class _Length:
    """Cached tokens per row; one object, shared by all layers of a cache."""

    def __init__(self) -> None:
        self.tokens = 0


class LayerCache:
    """The part of a KVCache that belongs to one layer."""

    def __init__(self, length: _Length, keys: Tensor, values: Tensor):
        self._length = length
        self._keys = keys
        self._values = values
        self.source: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """Tokens in the cache before this forward."""
        return self._length.tokens

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``k, v [B, K, T, E]``; returns all keys and values ``[B, K, length + T, E]``.

        Raises PromptError if the sequence would exceed the capacity.
        """
        start = self.length
        end = start + k.shape[2]
        if end > self._keys.shape[2]:
            raise PromptError(
                f"sequence of {end} tokens does not fit the cache of {self._keys.shape[2]}; "
                "shorten the messages or allocate a larger cache"
            )
        self._keys[:, :, start:end] = k
        self._values[:, :, start:end] = v
        return self._keys[:, :, :end], self._values[:, :, :end]

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values as they were allocated."""
        return self._keys, self._values

    @property
    def nbytes(self) -> int:
        """Allocated bytes, keys and values of the source included."""
        return sum(tensor.nbytes for tensor in (self._keys, self._values, *(self.source or ())))

    def reorder(self, index: Tensor) -> None:
        length = self.length
        self._keys[:, :, :length] = self._keys[index, :, :length]
        self._values[:, :, :length] = self._values[index, :, :length]
        if self.source is not None:
            self.source = (self.source[0][index], self.source[1][index])


class KVCache:
    """Keys and values of all layers."""

    def __init__(self, keys: list[Tensor], values: list[Tensor]):
        self._length = _Length()
        self._layers = [LayerCache(self._length, k, v) for k, v in zip(keys, values, strict=True)]
        self.capacity = keys[0].shape[2] if keys else 0

    @classmethod
    def allocate(
        cls,
        layers: int,
        batch: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "KVCache":
        """Buffers ``[batch, kv_heads, capacity, head_dim]`` for each of ``layers``."""
        shape = (batch, kv_heads, capacity, head_dim)
        return cls(
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)],
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)],
        )

    @property
    def length(self) -> int:
        """Cached tokens per row."""
        return self._length.tokens

    @property
    def nbytes(self) -> int:
        """Allocated bytes of all layers, unused capacity included."""
        return sum(layer.nbytes for layer in self._layers)

    def layer(self, index: int) -> LayerCache:
        return self._layers[index]

    def tensors(self) -> list[tuple[Tensor, Tensor]]:
        """The buffers [batch, kv_heads, capacity, head_dim] of keys and values, layer by layer."""
        return [layer.buffers for layer in self._layers]

    def copy_from(
        self, other: "KVCache", *, rows: slice = ALL, columns: slice = ALL, of: tuple[slice, slice] = (ALL, ALL)
    ) -> None:
        """Write rows and columns (tokens) `of` another cache, or of this one, into those of this one, in all layers.

        Lengths and sources stay as they are.
        """
        for tensors, others in zip(self.tensors(), other.tensors(), strict=True):
            for tensor, held in zip(tensors, others, strict=True):
                part = held[of[0], :, of[1]]
                tensor[rows, :, columns] = part.clone() if held is tensor else part  # the two may overlap

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def advance(self, count: int) -> None:
        """Add ``count`` newly written tokens to ``length``; called once per forward, after all layers."""
        if not 0 <= count <= self.capacity - self.length:
            raise PromptError(f"cache of {self.capacity} tokens holds {self.length} and cannot advance by {count}")
        self._length.tokens += count

    def truncate(self, length: int) -> None:
        """Drop all tokens after the first ``length``; cross-attention sources are kept."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self._length.tokens = length

    def sources(self) -> list[tuple[Tensor, Tensor] | None]:
        """The keys and values of cross-attention, layer by layer."""
        return [layer.source for layer in self._layers]

    def set_sources(self, sources: list[tuple[Tensor, Tensor] | None]) -> None:
        """Take those of another cache; they are never written to."""
        for layer, source in zip(self._layers, sources, strict=True):
            layer.source = source

    def forget_sources(self) -> None:
        """Drop the keys and values of cross-attention; the next call recomputes them."""
        for layer in self._layers:
            layer.source = None

    def reorder(self, index: Tensor) -> None:
        """Row ``b`` becomes row ``index[b]`` (beam search). ``index [B]`` int64."""
        for layer in self._layers:
            layer.reorder(index)
