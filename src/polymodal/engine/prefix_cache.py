"""Keys and values of finished conversations, for later ones that begin alike: turns, and shared instructions.

    encoded -> find: the entry that shares most tokens, with the same media in them -> Known.copy_into: that prefix

Several requests may begin with the same entry, so that it is copied, never taken.  What a longer conversation contains
is dropped when that one is put in; beyond the limits the ones used longest ago go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from polymodal.data.processor import Encoded
from polymodal.errors import ConfigError
from polymodal.generation.prefix import Items, common_prefix, items_of, outside_items
from polymodal.nn.cache import ALL, KVCache


@dataclass(frozen=True, kw_only=True)
class IdleLimits:
    """What conversations that wait for their next turn may hold together: how many, and bytes of keys and values."""

    chats: int = 8
    nbytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        if self.chats < 0 or self.nbytes < 0:
            raise ConfigError(f"idle limits: expected 0 or more, found {self.chats} chats and {self.nbytes} bytes")


@dataclass(frozen=True, eq=False)
class _Entry:
    ids: list[int]
    items: Items
    cache: KVCache
    tenant: str


@dataclass(frozen=True, eq=False)
class Known:
    """The first `length` tokens of a conversation, whose keys and values are known."""

    encoded: Encoded
    length: int = 0
    entry: _Entry | None = None

    def copy_into(self, cache: KVCache, row: int, column: int, length: int) -> None:
        """Write the first `length` of them into a row of a cache, from a column on."""
        if self.entry is not None and length:
            columns = slice(column, column + length)
            cache.copy_from(self.entry.cache, rows=slice(row, row + 1), columns=columns, of=(ALL, slice(length)))

    @property
    def sources(self) -> list[tuple[Tensor, Tensor] | None] | None:
        """The keys and values of cross-attention, where the media are the same."""
        same = self.entry is not None and self.length and self.entry.items == items_of(self.encoded)
        return self.entry.cache.sources() if same and self.entry is not None else None


class PrefixCache:
    """For one model; not for several threads.  limits: conversations that are kept, and their bytes together."""

    def __init__(self, limits: IdleLimits) -> None:
        self.limits = limits
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

    def find(self, encoded: Encoded, tenant: str = "") -> Known:
        """What is known of a conversation from others of the same tenant.

        The last token is never among it: its hidden state gives the first token of the answer.
        """
        ours = [entry for entry in self._entries if entry.tenant == tenant]
        shared = [common_prefix(encoded, entry.ids, entry.items) for entry in ours]
        if not shared:
            return Known(encoded)
        best = max(range(len(shared)), key=lambda index: (shared[index], index))
        length = outside_items(min(shared[best], len(encoded) - 1), encoded.media_spans)
        if not length:
            return Known(encoded)
        self._entries.remove(ours[best])
        self._entries.append(ours[best])
        return Known(encoded, length, ours[best])

    def put(self, encoded: Encoded, written: Sequence[int], cache: KVCache, tenant: str = "") -> None:
        """Keep the cache of a conversation and of what was written after it; the cache is the store's from now on."""
        if cache.nbytes > self.limits.nbytes:
            return
        ids = [*encoded.input_ids, *written][: cache.length]
        items = items_of(encoded)
        self._entries = [entry for entry in self._entries if not _holds(entry, ids, items, tenant)]
        self._entries.append(_Entry(ids, items, cache, tenant))
        self.trim()

    def trim(self) -> None:
        """Forget those used longest ago until the rest keep the limits."""
        while self._entries and (len(self._entries) > self.limits.chats or self.nbytes > self.limits.nbytes):
            del self._entries[0]


def _holds(entry: _Entry, ids: list[int], items: Items, tenant: str) -> bool:
    """Whether a conversation has all that an entry knows."""
    return entry.tenant == tenant and entry.items <= items and ids[: len(entry.ids)] == entry.ids
