"""How much of a conversation is computed already: the longest common prefix of ids, with the same media in it."""

from __future__ import annotations

from collections.abc import Sequence

from polymodal.data.processor import Encoded, MediaSpan

Items = frozenset[tuple[int, str]]  # where media are seen from, and what they are


def items_of(encoded: Encoded) -> Items:
    """The media of a conversation."""
    return frozenset((span.seen_from, span.item.key) for span in encoded.media_spans)


def common_prefix(encoded: Encoded, ids: Sequence[int], items: Items) -> int:
    """Number of leading tokens that are equal, in ids and in the media there."""
    length = 0
    for ours, theirs in zip(encoded.input_ids, ids, strict=False):
        if ours != theirs:
            break
        length += 1
    return min((first for first, _ in items_of(encoded) ^ items if first < length), default=length)


def outside_items(length: int, spans: Sequence[MediaSpan]) -> int:
    """`length`, or where the item begins through whose placeholders it would cut: an item enters whole."""
    return next((span.first for span in spans if span.first < length < span.end), length)
