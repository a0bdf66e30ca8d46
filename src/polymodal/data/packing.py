"""Packing: several conversations in one row, so that a batch of unequal lengths holds little padding.

    conversations -> processor.encode, fit -> pack(rows, length) -> rows of up to `length` tokens
    -> processor.collate(rows) -> batch with `segments` [B, T]: 1 1 1 2 2 2 2 3 0

    batch = processor.collate(pack(rows, 4096), padding="right")

The model keeps the segments apart: positions begin anew, attention and media never cross (`nn/segments.py`), so a
packed row gives the numbers of its conversations alone.  Rows are put where they fit first, longest first (first-fit
decreasing: at most 11/9 of the fewest rows possible, and 6/9 of one more).
Traps: a conversation is never cut here, media included; the first token of a conversation is no target, since in a
packed row the token before it belongs to another one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

from polymodal.data.processor import Encoded, MediaSpan
from polymodal.errors import PromptError


def pack(rows: Sequence[Encoded], length: int) -> list[Encoded]:
    """Rows of at most `length` tokens that hold all of `rows`, each once and whole; the order of the first ones stays.

    Raises PromptError for a row that is longer than `length`, and for one that is packed already.
    """
    for number, row in enumerate(rows):
        if len(row) > length:
            raise PromptError(f"pack: row {number} has {len(row)} tokens for a length of {length}; fit it first")
        if row.segments:
            raise PromptError(f"pack: row {number} is packed already; it holds {len(row.segments)} conversations")
    bins: list[list[int]] = []
    free: list[int] = []
    for number in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        size = len(rows[number])
        bin_index = next((index for index, left in enumerate(free) if size <= left), len(bins))
        if bin_index == len(bins):
            bins.append([])
            free.append(length)
        bins[bin_index].append(number)
        free[bin_index] -= size
    return [joined([rows[number] for number in sorted(members)]) for members in sorted(map(sorted, bins))]


def packed(rows: Iterable[Encoded], length: int, window: int = 256) -> Iterator[Encoded]:
    """`pack` over a stream: `window` rows are looked at together."""
    if window < 1:
        raise PromptError(f"packed: a window of {window} rows holds none; expected 1 or more")
    stream = iter(rows)
    while batch := list(islice(stream, window)):
        yield from pack(batch, length)


def joined(rows: Sequence[Encoded]) -> Encoded:
    """The rows one after another in one row; a row alone stays as it is."""
    if len(rows) == 1:
        return rows[0]
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    loss_masks = [[False, *row.loss_mask[1:]] for row in rows]
    return Encoded(
        input_ids=list(chain.from_iterable(row.input_ids for row in rows)),
        loss_mask=list(chain.from_iterable(loss_masks)),
        token_types=list(chain.from_iterable(row.token_types for row in rows)),
        media_spans=tuple(
            _moved(span, start) for row, start in zip(rows, starts, strict=False) for span in row.media_spans
        ),
        segments=tuple(map(len, rows)),
    )


def _moved(span: MediaSpan, by: int) -> MediaSpan:
    return replace(span, first=span.first + by, start=span.start + by, end=span.end + by)
