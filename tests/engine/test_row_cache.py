"""Rows that join and leave in any order read what they would read alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polymodal.engine.rows import RowCache
from polymodal.nn.cache import KVCache

SLOTS = 4


def new_cache(batch: int, capacity: int) -> KVCache:
    return KVCache.allocate(layers=2, batch=batch, kv_heads=1, head_dim=1, capacity=capacity)


def row_of(numbers: list[float]) -> KVCache:
    cache = new_cache(1, len(numbers) + 3)
    values = torch.tensor(numbers)[None, None, :, None]
    for layer in range(2):
        cache.layer(layer).update(values, -values)
    cache.advance(len(numbers))
    return cache


def read(rows: RowCache, written: list[float]) -> list[list[float]]:
    """One token more in every row, by way of the view, and what attention then sees of each."""
    view, mask = rows.view(), rows.mask(torch.device("cpu"))
    new = torch.tensor(written)[:, None, None, None]
    seen: list[Tensor] = []
    for layer in range(2):
        keys, values = view.layer(layer).update(new, -new)
        assert torch.equal(keys, -values)
        seen.append(keys[:, 0, :, 0])
    assert torch.equal(*seen)
    view.advance(1)
    rows.written()
    visible = torch.ones_like(seen[0], dtype=torch.bool) if mask is None else mask
    return [row[real].tolist() for row, real in zip(seen[0], visible, strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 400), st.integers(-SLOTS, -1), st.just(0)), min_size=1, max_size=60))
def test_rows_read_what_they_would_alone(actions: list[int]) -> None:
    """Positive: a row of that length joins; negative: that row leaves; 0: twenty tokens for all."""
    rows, expected, number = RowCache(new_cache), [], 0.0
    for action in actions:
        if action > 0 and rows.rows < SLOTS:
            new = [number + k for k in range(1, action + 1)]
            rows.join(row_of(new))
            expected.append(new)
            number += action
        elif action < 0 and -action <= rows.rows:
            rows.leave(-action - 1)
            expected[-action - 1] = expected[-1]
            expected.pop()
        elif action == 0 and rows.rows:
            for _ in range(20):
                written = [number + k for k in range(1, rows.rows + 1)]
                number += rows.rows
                for row, value in zip(expected, written, strict=True):
                    row.append(value)
                assert read(rows, written) == expected
    assert rows.lengths == [len(row) for row in expected]
    for index, row in enumerate(expected):
        copy = rows.row(index)
        assert copy.length == copy.capacity == len(row)
        assert copy.tensors()[1][0][0, 0, :, 0].tolist() == row


def test_columns_that_nobody_uses_are_given_up() -> None:
    """One row after another, for ever: the buffers do not grow with the number of tokens that went through."""
    rows = RowCache(new_cache)
    rows.join(row_of([1.0] * 50))
    for turn in range(30):
        rows.join(row_of([float(turn)] * 50))
        for _ in range(100):
            rows.view().advance(1)
            rows.written()
        rows.leave(0)
    assert rows.lengths == [150]
    assert rows.nbytes == 2 * 2 * 2 * 256 * 4


def test_bytes_of_a_token() -> None:
    assert RowCache(new_cache).token_bytes == 2 * 2 * 4
