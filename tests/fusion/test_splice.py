"""Splice and gather: exact placement and inverse, errors that name the item, no leak from placeholders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.splice import gather, splice

P = 9  # placeholder id


def ids(*rows: str) -> Tensor:
    """Rows of text where `*` is a placeholder and anything else is text."""
    return torch.tensor([[P if mark == "*" else 1 for mark in row] for row in rows])


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, list[Tensor], list[int]]:
    """Rows of items, each maybe split by text, maybe adjacent; padded right with text."""
    rows, items, counts = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        row, count = "", draw(st.integers(0, 3))
        for _ in range(count):
            length = draw(st.integers(1, 5))
            row += "." * draw(st.integers(0, 3)) + "*" * length
            items.append(torch.randn(length, 3))
        rows.append(row + "." * draw(st.integers(0, 3)))
        counts.append(count)
    width = max(map(len, rows)) + 1
    return ids(*(row.ljust(width, ".") for row in rows)), items, counts


@given(batches())
def test_gather_inverts_splice_and_text_is_untouched(batch: tuple[Tensor, list[Tensor], list[int]]) -> None:
    token_ids, items, counts = batch
    embeds = torch.randn(*token_ids.shape, 3)
    kept = embeds.clone()
    result = splice(embeds, token_ids, items, P, counts)
    assert torch.equal(gather(result, token_ids, P), torch.cat(items) if items else torch.zeros(0, 3))
    assert torch.equal(result[token_ids != P], embeds[token_ids != P])
    assert torch.equal(embeds, kept)


@given(batches(), st.data())
def test_one_placeholder_too_few_is_always_found(
    batch: tuple[Tensor, list[Tensor], list[int]], data: st.DataObject
) -> None:
    token_ids, items, counts = batch
    places = (token_ids == P).nonzero().tolist()
    if places:
        row, column = data.draw(st.sampled_from(places))
        token_ids[row, column] = 1
        with pytest.raises(PromptError, match=f"row {row}"):
            splice(torch.randn(*token_ids.shape, 3), token_ids, items, P, counts)


def test_tensor_features_split_items_and_order_over_rows() -> None:
    token_ids = ids("**.**..", ".**.**.")  # second row: one item of four features, split by a row-end token
    features = torch.arange(24.0).reshape(3, 2, 4)
    items = [features[0], features[1], torch.arange(100.0, 116.0).reshape(4, 4)]
    result = splice(torch.zeros(2, 7, 4), token_ids, items, P, torch.tensor([2, 1]))
    assert torch.equal(result[0, 3:5], features[1])
    assert torch.equal(result[1, [1, 2, 4, 5]], items[2])
    whole = splice(torch.zeros(1, 6, 4), ids("******"), features, P, [3])
    assert torch.equal(whole[0], features.flatten(0, 1))


def test_placeholder_embedding_does_not_matter() -> None:
    token_ids = ids(".**.", "..**")
    embeds = torch.randn(2, 4, 3)
    embeds[token_ids == P] = float("nan")
    embeds.requires_grad_()
    features = torch.randn(2, 2, 3, requires_grad=True)
    result = splice(embeds, token_ids, features, P, [1, 1])
    assert result.isfinite().all()
    result.square().sum().backward()
    assert embeds.grad is not None and embeds.grad.isfinite().all()
    assert (embeds.grad[token_ids == P] == 0).all()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, 2 * features.detach(), atol=0, rtol=0)


def test_no_item_returns_the_same_tensor() -> None:
    embeds = torch.randn(2, 3, 4)
    assert splice(embeds, ids("...", "..."), torch.zeros(0, 5, 4), P, [0, 0]) is embeds
    assert splice(embeds, ids("...", "..."), [], P, [0, 0]) is embeds
    assert gather(embeds, ids("...", "..."), P).shape == (0, 4)


def test_features_take_the_dtype_of_the_sequence() -> None:
    result = splice(torch.zeros(1, 2, 3, dtype=torch.bfloat16), ids("**"), torch.ones(1, 2, 3), P, [1])
    assert result.dtype == torch.bfloat16 and (result == 1).all()


@pytest.mark.parametrize(
    ("rows", "lengths", "counts", "message"),
    [
        (
            ("**.***", "**...."),
            (2, 3, 3),
            (2, 1),
            r"item 2 \(row 1\): expected 3 placeholder tokens, found 2",
        ),
        (("***.**",), (2, 3), (2,), r"item 0 \(row 0\): expected 2 placeholder tokens, found 3"),  # sum fits
        (
            ("***.",),
            (2, 2),
            (2,),
            r"item 1 \(row 0\): expected 2 placeholder tokens, found 1",
        ),  # adjacent, cut
        (("*****",), (2, 2), (2,), "row 0: 1 placeholder tokens are left over after its 2 items"),
        (("*.",), (), (0,), "row 0: 1 placeholder tokens are left over after its 0 items"),
        (("..", "**"), (2,), (1, 0), r"item 0 \(row 0\): expected 2 placeholder tokens, found 0"),
        (("**",), (2,), (2,), "announces 2 items, but features holds 1"),
    ],
)
def test_errors_name_item_expected_found(
    rows: tuple[str, ...], lengths: tuple[int, ...], counts: tuple[int, ...], message: str
) -> None:
    token_ids = ids(*rows)
    with pytest.raises(PromptError, match=message):
        splice(torch.zeros(*token_ids.shape, 3), token_ids, [torch.ones(n, 3) for n in lengths], P, counts)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="features are 5 wide, the sequence is 3 wide"):
        splice(torch.zeros(1, 2, 3), ids("**"), torch.ones(1, 2, 5), P, [1])
    with pytest.raises(ConfigError, match="item_counts has 2 rows, input_ids has 1"):
        splice(torch.zeros(1, 2, 3), ids("**"), torch.ones(1, 2, 3), P, [1, 0])
    with pytest.raises(ConfigError, match=r"must be \[N, Q, D\]"):
        splice(torch.zeros(1, 2, 3), ids("**"), torch.ones(2, 3), P, [1])


def test_what_the_processor_wrote_is_compared_with_the_features_alone() -> None:
    token_ids, items = ids("**.**", ".*..."), [torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3)]
    embeds = torch.randn(2, 5, 3)
    known = splice(embeds, token_ids, items, P, [2, 1], (2, 2, 1))
    assert torch.equal(known, splice(embeds, token_ids, items, P))
    with pytest.raises(PromptError, match="item 1: the processor wrote 2 placeholder tokens, the encoder gave 1 feat"):
        splice(embeds, token_ids, [items[0], items[2], items[1]], P, [2, 1], (2, 2, 1))
    with pytest.raises(PromptError, match="announces 3 items, but features holds 2"):
        splice(embeds, token_ids, items[:2], P, None, (2, 2, 1))
    with pytest.raises(PromptError, match="left over"):
        splice(embeds, token_ids, items[:2], P, None, (2, 2))  # on the host the placeholders are counted all the same


def test_known_counts_ask_no_device() -> None:
    """On the meta device every read of a value is an error."""
    embeds, token_ids = torch.zeros(2, 5, 3, device="meta"), torch.zeros(2, 5, dtype=torch.int64, device="meta")
    items = torch.zeros(3, 2, 3, device="meta")
    assert splice(embeds, token_ids, items, P, torch.tensor([2, 1]), (2, 2, 2)).shape == embeds.shape
    assert splice(embeds, token_ids, [], P, torch.tensor([0, 0]), ()) is embeds
    with pytest.raises(NotImplementedError):
        splice(embeds, token_ids, items, P)
