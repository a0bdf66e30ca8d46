"""Adapters through rows: the changed weights are those of the row applied to the changed sources, there and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import WeightsError
from polymodal.nn.lora import LowRank, row_lengths
from polymodal.weights.keytable import copy, fuse, rename, split
from polymodal.weights.low_rank_rows import carry, trimmed
from polymodal.weights.operations import Reshape, ResizeRows, Scale, Transpose, to_half_split
from polymodal.weights.rows import Row

HEADS, COLUMNS = 2, 5


def rows() -> st.SearchStrategy[tuple[Row, list[int]]]:
    """Rows that move rows, with the heights of their sources."""
    turn = to_half_split(HEADS)
    return st.sampled_from([
        (rename("a", "b"), [8]),
        (rename("a", "b", turn), [8]),
        (rename("a", "b", ResizeRows(8, 11)), [8]),
        (split("a", ("q", "k", "v"), sizes=(8, 4, 4), each=((turn,), (turn,), ())), [16]),
        (split("a", ("q", "k", "v"), groups=HEADS), [12]),
        (fuse(("q", "k", "v"), "a", sizes=(8, 4, 4)), [8, 4, 4]),
        (fuse(("q", "k"), "a", groups=HEADS, each=((turn,), (turn,))), [8, 8]),
        (copy("a", ("b", "c")), [8]),
    ])  # fmt: skip


def change(height: int, rank: int, scale: float, embedding: bool, dora: bool = False) -> LowRank:
    left, right = torch.randn(height, rank).double(), torch.randn(rank, COLUMNS).double()
    a, b = (left.T, right.T) if embedding else (right, left)
    magnitude = torch.rand(len(b)).double() + 0.5 if dora else None
    return LowRank(a=a, b=b, scale=scale, magnitude=magnitude)


def changed(weight: torch.Tensor, low: LowRank | None, embedding: bool) -> torch.Tensor:
    if low is None:
        return weight
    delta = low.scale * low.b @ low.a
    weight = weight + (delta.T if embedding else delta)
    if low.magnitude is not None:
        weight = low.magnitude[:, None] * weight / row_lengths(weight)[:, None]
    return weight


@settings(deadline=None, max_examples=60)
@given(row=rows(), missing=st.integers(0, 7), embedding=st.booleans(), dora=st.booleans(), alike=st.booleans())
def test_changes_go_through_a_row_as_weights_do_and_back(row, missing, embedding, dora, alike):
    torch.manual_seed(missing)
    table, heights = row
    dora = dora and not embedding and not missing
    weights = [torch.randn(height, COLUMNS).double() for height in heights]
    lows: list[LowRank | None] = [
        change(height, 2 + i, 1.0 if alike else 0.5 + i, embedding, dora) for i, height in enumerate(heights)
    ]
    if len(heights) > 1:
        lows = [None if missing >> i & 1 else low for i, low in enumerate(lows)]
    if all(low is None for low in lows):
        lows[0] = change(heights[0], 2, 1.0, embedding)
    expected = table.convert([changed(w, low, embedding) for w, low in zip(weights, lows, strict=True)])
    ours = carry(table, lows, [w.shape for w in weights], embedding)
    moved = table.convert(weights)
    for weight, low, whole in zip(moved, ours, expected, strict=True):
        torch.testing.assert_close(changed(weight, low, embedding), whole)
    back = carry(table.inverse(), ours, [w.shape for w in moved], embedding)
    for weight, low, old in zip(weights, back, lows, strict=True):
        torch.testing.assert_close(changed(weight, trimmed(low), embedding), changed(weight, old, embedding))
        if old is not None and len(heights) == 1:
            assert torch.equal(low.a, old.a) and torch.equal(low.b, old.b) and low.scale == old.scale


def test_parts_of_one_adapter_that_were_trained_apart_become_one_of_more_ranks():
    torch.manual_seed(0)
    row = split("a", ("q", "k"), sizes=(4, 4))
    first, second = (change(4, 2, 0.5, False) for _ in range(2))
    (whole,) = carry(row.inverse(), [first, second], [(4, COLUMNS)] * 2, False)
    assert len(whole.a) == 4 and whole.scale == 0.5
    delta = torch.cat([0.5 * each.b @ each.a for each in (first, second)])
    torch.testing.assert_close(0.5 * whole.b @ whole.a, delta)


def test_a_library_conv1d_is_a_linear_for_its_adapter():
    low = change(4, 2, 0.5, False)
    (found,) = carry(rename("a", "b", Transpose()), [low], [(COLUMNS, 4)], False)
    assert torch.equal(found.a, low.a) and torch.equal(found.b, low.b)


def test_a_fresh_adapter_keeps_its_ranks():
    low = LowRank(a=torch.ones(3, 5), b=torch.zeros(4, 3), scale=1.0)
    assert trimmed(low) is low


@pytest.mark.parametrize(
    ("row", "low", "match"),
    [
        (rename("a", "b", Scale(2.0)), change(4, 2, 1.0, False), "Scale"),
        (rename("a", "b", Reshape((4, 5), (20,))), change(4, 2, 1.0, False), "Reshape"),
        (split("a", ("b", "c"), dim=1), change(4, 2, 1.0, False), "Split"),
        (split("a", ("b", "c", "d")), change(4, 2, 1.0, False), "does not fit"),
    ],
)
def test_rows_that_do_more_are_refused(row, low, match):
    with pytest.raises(WeightsError, match=match):
        carry(row, [low], [(4, COLUMNS)], False)


def test_dora_on_a_part_of_a_fused_weight_or_a_cut_embedding_is_refused():
    with pytest.raises(WeightsError, match="DoRA"):
        carry(fuse(("q", "k"), "a"), [change(4, 2, 1.0, False, dora=True), None], [(4, COLUMNS)] * 2, False)
    with pytest.raises(WeightsError, match="DoRA"):
        carry(split("a", ("b", "c")), [change(4, 2, 1.0, True, dora=True)], [(4, COLUMNS)], True)
