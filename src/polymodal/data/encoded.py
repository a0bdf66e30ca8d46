"""Conversations as token ids: what the processor hands from encoding to collating, and to generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """One item of media, ready for its encoder.  key: SHA-256 of modality, dtype, shape and all values."""

    modality: str
    values: Any
    tokens: int
    key: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MediaSpan:
    """Where an item lies in a row: placeholders at [first, first + tokens), with their markers [start, end).

    ahead: tokens in front of it see it too, so that nothing of the row is as it was when the item changes.
    """

    item: Prepared
    first: int
    start: int
    end: int
    ahead: bool = False

    @property
    def seen_from(self) -> int:
        """The first token that is computed from it."""
        return 0 if self.ahead else self.first


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One conversation as lists of equal length, with its media in order of appearance.

    segments: the lengths of several conversations that stand one after another in this row (`data/packing.py`); empty
    for one alone.
    """

    input_ids: list[int]
    loss_mask: list[bool]
    token_types: list[int]
    media_spans: tuple[MediaSpan, ...] = ()
    segments: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def counts(self) -> dict[str, int]:
        """Tokens per modality: text and every kind of media that occurs (its placeholders only)."""
        counts: dict[str, int] = {"text": len(self)}
        for span in self.media_spans:
            name = span.item.modality
            counts[name] = counts.get(name, 0) + span.item.tokens
            counts["text"] -= span.item.tokens
        return counts
