"""Keys and values of the rows of a running batch; rows join and leave between two steps.

    |  free  | row 0: ......... |        All rows end in the same column, where the next token of each is written:
    |  free      | row 1: ..... |        one contiguous write a layer, and the mask of a batch that is padded on the
    |  free | row 2: .......... |        left, for which windows, biases and rotary positions are right already.
             ^ first            ^ end

A row that joins is copied to the end; when it is longer than all others, they move right.  A row that leaves is
replaced by the last one.  Columns that nobody uses any more are given up when space is needed; buffers double in rows
or columns when there is none left, and go with the last row.  What a row reads is the same in every order of joining
and leaving.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polymodal.nn.cache import KVCache

SMALLEST = 256  # columns of a new buffer


class RowCache:
    """Buffers [slots, K, capacity, E] of every layer, of which the first `rows` slots are in use.

    new_cache(batch, capacity): makes them, as `Decoder.new_cache`.  lengths: tokens of each row.
    """

    def __init__(self, new_cache: Callable[[int, int], KVCache]) -> None:
        self._new_cache = new_cache
        self._buffers = new_cache(0, 0)
        self._view: KVCache | None = None
        self.end = 0
        self.lengths: list[int] = []

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return self._buffers.nbytes

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        shapes = [tensor for tensors in self._buffers.tensors() for tensor in tensors]
        return sum(each.shape[1] * each.shape[3] * each.element_size() for each in shapes)

    def join(self, row: KVCache, index: int = 0, first: int = 0) -> None:
        """Copy row `index` of a cache, from column `first` on, to the end of the columns; it is the last row."""
        if not self.rows:
            self._buffers = self._new_cache(0, 0)  # the model may have moved since
        held, self._view = slice(first, row.length), None
        length = row.length - first
        self._make_space(max(length, self.end), max(length, self.longest), self.rows + 1)
        if length > self.end:
            self._move(length - self.end)
        columns = slice(self.end - length, self.end)
        self._buffers.copy_from(row, rows=_one(self.rows), columns=columns, of=(_one(index), held))
        self.lengths.append(length)

    def leave(self, index: int, wipe: bool = False) -> None:
        """Give up row `index`; the last row takes its place.

        wipe: it may hold values that are no numbers.  They would reach whoever uses its columns next: a masked key has
        the weight 0, but 0 times NaN is NaN.
        """
        last, self._view = self.rows - 1, None
        if wipe:
            for tensors in self._buffers.tensors():
                for tensor in tensors:
                    tensor[index].zero_()
        if index != last:
            held = slice(self.end - self.lengths[last], self.end)
            self._buffers.copy_from(self._buffers, rows=_one(index), columns=held, of=(_one(last), held))
        self.lengths[index] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self.end, self._buffers = 0, self._new_cache(0, 0)

    def row(self, index: int) -> KVCache:
        """A copy of one row's keys and values, without free columns."""
        length = self.lengths[index]
        copy = self._new_cache(1, max(length, 1))
        held = slice(self.end - length, self.end)
        copy.copy_from(self._buffers, columns=slice(length), of=(_one(index), held))
        copy.advance(length)
        return copy

    def view(self) -> KVCache:
        """The rows in use as a cache with space for one token; after a forward, which advances it, call `written`."""
        self._make_space(self.end + 1, self.longest + 1, self.rows)
        if self._view is None:
            tensors, longest = self._buffers.tensors(), self.longest
            first = self.end - longest
            self._view = KVCache(
                [keys[: self.rows, :, first:] for keys, _ in tensors],
                [values[: self.rows, :, first:] for _, values in tensors],
            )
            self._view.advance(longest)
        return self._view

    def for_writing(self) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Whole buffers with space for one token a row, and its column; once it is written, call `written`."""
        self._make_space(self.end + 1, self.longest + 1, self.rows)
        self._view = None  # its length would be behind
        return self._buffers.tensors(), self.end

    def written(self) -> None:
        """One token more in every row."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def mask(self, device: torch.device) -> Tensor | None:
        """bool [rows, longest + 1] over the columns of `view` and the token to come; None for rows of one length."""
        longest = self.longest
        if min(self.lengths) == longest:
            return None
        starts = torch.tensor([longest - length for length in self.lengths], device=device)
        return torch.arange(longest + 1, device=device) >= starts[:, None]

    def _make_space(self, end: int, least: int, rows: int) -> None:
        """Space for columns up to `end`, or `least` once unused ones are given up, and for that many rows."""
        slots, capacity = self._buffers.tensors()[0][0].shape[0], self._buffers.capacity
        # Moving pays when it frees a good part; else the next steps would move again and again.
        if end > capacity >= 4 / 3 * least and self.end > self.longest:
            self._move(self.longest - self.end)
            end = least
        if end > capacity or rows > slots:
            self._grow(
                slots if rows <= slots else max(rows, 2 * slots),
                capacity if end <= capacity else max(end, 2 * capacity),
            )

    def _grow(self, slots: int, capacity: int) -> None:
        """Larger buffers; what was held stays in its place."""
        new, self._view = self._new_cache(slots, max(capacity, SMALLEST)), None
        held = slice(self.rows), slice(self.end)
        new.copy_from(self._buffers, rows=held[0], columns=held[1], of=held)
        self._buffers = new

    def _move(self, by: int) -> None:
        """Move what the rows hold by that many columns, right or (negative) left; there is space for it."""
        first, self._view = self.end - self.longest, None
        if self.lengths:
            rows, columns = slice(self.rows), slice(first + by, self.end + by)
            self._buffers.copy_from(self._buffers, rows=rows, columns=columns, of=(rows, slice(first, self.end)))
        self.end += by


def _one(index: int) -> slice:
    return slice(index, index + 1)
