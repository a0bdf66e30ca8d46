"""The table of characters inside sentencepiece models: which prefixes of a text are replaced by what.

    u32 length of the trie | trie: double array of u32 units (Darts-clone) | replacements: UTF-8, each ended by a zero

The tokenizers library looks replacements up in it (`normalizers.Precompiled`) without looking at bounds: a damaged
table would end the process at the first text, long after it was loaded.  So every state that a text can reach is
visited here once, and what the library would read there is compared with the sizes.
"""

from __future__ import annotations

import numpy as np

MAX_CHARSMAP = 1 << 22  # bytes; the largest published one has 317 kB
MAX_REPLACEMENT = 64  # bytes that stand for a few letters; published: 33, an Arabic greeting

_AT_ONCE = 4096  # states looked at together: 4096 x 255 followers of 8 bytes


def check_charsmap(charsmap: bytes) -> int:
    """Bytes of the longest replacement.

    Raises ValueError, naming what is wrong, unless every lookup in this table stays inside of it and makes little.
    """
    if len(charsmap) > MAX_CHARSMAP:
        raise ValueError(f"the normaliser's table has {len(charsmap):,} bytes; the limit is {MAX_CHARSMAP:,}")
    if len(charsmap) < 8:
        raise ValueError(f"the normaliser's table has {len(charsmap)} bytes")
    size = int.from_bytes(charsmap[:4], "little")
    if size < 4 or size % 4 or size > len(charsmap) - 4:
        raise ValueError(f"the normaliser's table claims a trie of {size} bytes in {len(charsmap)}")
    replacements = charsmap[4 + size :]
    try:
        replacements.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the normaliser's replacements are not UTF-8") from None
    units = np.frombuffer(charsmap, "<u4", count=size // 4, offset=4).astype(np.int64)
    values = _values(units)
    for start in values:
        # A replacement that starts behind the text, or within a character, cannot be cut out of it.
        if start > len(replacements) or (start < len(replacements) and replacements[start] & 0xC0 == 0x80):
            raise ValueError(f"the normaliser's table points to byte {start} of {len(replacements)}")
    longest = _longest(replacements, values)
    if longest > MAX_REPLACEMENT:
        raise ValueError(f"the normaliser replaces a letter by {longest} bytes; the limit is {MAX_REPLACEMENT}")
    return longest


def _longest(replacements: bytes, starts: set[int]) -> int:
    """Bytes of the longest replacement that begins at one of these places."""
    ends = np.append(np.flatnonzero(np.frombuffer(replacements, np.uint8) == 0), len(replacements))
    begin = np.array(sorted(starts), np.int64)
    return int((ends[np.searchsorted(ends, begin)] - begin).max(initial=0))


def _values(units: np.ndarray) -> set[int]:
    """The values of all states that can be reached from the root of a double array, int64 [N]."""
    letters = np.arange(1, 256)
    seen = np.zeros(len(units), bool)
    waiting = _inside(units, _offset(units[:1]))
    found: set[int] = set()
    seen[waiting] = True
    while len(waiting):
        states, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        followers = _inside(units, states[:, None] ^ letters)
        # A unit is the follower by a letter when its low byte and its sign say so.
        taken = followers[(units[followers] & 0x8000_00FF) == letters]
        reached = _inside(units, taken ^ _offset(units[taken]))
        leaves = reached[(units[taken] >> 8) & 1 == 1]
        found.update((units[leaves] & 0x7FFF_FFFF).tolist())
        fresh = np.unique(reached[~seen[reached]])
        seen[fresh] = True
        waiting = np.concatenate([waiting, fresh])
    return found


def _offset(units: np.ndarray) -> np.ndarray:
    """How far a unit's followers are: its upper 22 bits, times 256 when bit 9 is set."""
    return (units >> 10) << ((units & 0x200) >> 6)


def _inside(units: np.ndarray, indices: np.ndarray) -> np.ndarray:
    if indices.size and (int(indices.max()) >= len(units) or int(indices.min()) < 0):
        raise ValueError(f"the normaliser's trie of {len(units)} units points outside of it")
    return indices
