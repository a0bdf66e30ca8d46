"""How much of a conversation is computed already: the longest common prefix of ids, with the same media in it."""

from __future__ import annotations

from collections.abc import Sequence

from polymodal.data.processor import Encoded, MediaSpan

Items = frozenset[tuple[int, str]]  # where media begin, and what they are


def items_of(encoded: Encoded) -> Items:
    """The media of a conversation."""
    return frozenset((span.first, span.item.key) for span in encoded.media_spans)


def common_prefix(encoded: Encoded, ids: Sequence[int], items: Items) -> int:
    """Number of leading tokens that are equal, in ids and in the media there."""
    length = _equal(encoded.input_ids, ids)
    return min((first for first, _ in items_of(encoded) ^ items if first < length), default=length)


def _equal(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Number of leading numbers that are equal; by halves, since equal slices are found much faster than loops run."""
    least, most = 0, min(len(ours), len(theirs))
    middle = most  # most often one begins with all of the other
    while least < most:
        if ours[least:middle] == theirs[least:middle]:
            least = middle
        else:
            most = middle - 1
        middle = (least + most + 1) // 2
    return least


def outside_items(length: int, spans: Sequence[MediaSpan]) -> int:
    """`length`, or where the item begins through whose placeholders it would cut: an item enters whole."""
    return next((span.first for span in spans if span.first < length < span.end), length)
