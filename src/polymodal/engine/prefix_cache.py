"""Keys and values of finished conversations, for later ones that begin alike: turns, and shared instructions.

    encoded -> the entry that shares most tokens, with the same media in them -> a copy of that prefix

Several requests may begin with the same entry, so that it is copied, never taken.  What a longer conversation contains
is dropped when that one is put in; beyond `limit_bytes` the ones used longest ago go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polymodal.data.processor import Encoded
from polymodal.generation.prefix import Items, common_prefix, items_of, outside_items
from polymodal.nn.cache import KVCache


@dataclass(frozen=True, eq=False)
class _Entry:
    ids: list[int]
    items: Items
    cache: KVCache


class PrefixCache:
    """For one model; not for several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: list[_Entry] = []  # the one used last at the end

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(entry.cache.nbytes for entry in self._entries)

    def clear(self) -> None:
        """Forget all (after a change of weights)."""
        self._entries.clear()

    def begin(self, encoded: Encoded, new_cache: Callable[[int, int], KVCache], capacity: int) -> KVCache:
        """A cache of one row with that capacity, which holds as much of the conversation as is known.

        The last token is never among it: its hidden state gives the first token of the answer.
        """
        cache = new_cache(1, capacity)
        shared = [common_prefix(encoded, entry.ids, entry.items) for entry in self._entries]
        if not shared:
            return cache
        best = max(range(len(shared)), key=lambda index: (shared[index], index))
        length = outside_items(min(shared[best], len(encoded) - 1), encoded.media_spans)
        if length:
            entry = self._entries.pop(best)
            self._entries.append(entry)
            cache.copy_from(entry.cache, columns=slice(length), of=(slice(None), slice(length)))
            cache.advance(length)
            if entry.items == items_of(encoded):
                cache.set_sources(entry.cache.sources())
        return cache

    def put(self, encoded: Encoded, written: Sequence[int], cache: KVCache) -> None:
        """Keep the cache of a conversation and of what was written after it; the cache is the store's from now on."""
        if cache.nbytes > self._limit:
            return
        ids = [*encoded.input_ids, *written][: cache.length]
        items = items_of(encoded)
        kept = [entry for entry in self._entries if not (entry.items <= items and ids[: len(entry.ids)] == entry.ids)]
        self._entries = [*kept, _Entry(ids, items, cache)]
        while self.nbytes > self._limit:
            del self._entries[0]
