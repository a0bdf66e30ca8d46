"""MaskSpec against its own rule written as a loop, and what attention does with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.nn.attention import attend
from polymodal.nn.mask import MaskSpec, padding_mask, position_ids_from_mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[MaskSpec, int, int]:
    k_len = draw(st.integers(1, 9))
    q_len = draw(st.integers(1, k_len))

    def rows(low: int, high: int) -> torch.Tensor | None:
        if not draw(st.booleans()):
            return None
        row = st.lists(st.integers(low, high), min_size=k_len, max_size=k_len)
        return torch.tensor(draw(st.lists(row, min_size=2, max_size=2)))

    visible = None
    if draw(st.booleans()):
        flat = draw(st.lists(st.booleans(), min_size=2 * q_len * k_len, max_size=2 * q_len * k_len))
        visible = torch.tensor(flat).view(2, q_len, k_len)
    spec = MaskSpec(
        causal=draw(st.booleans()),
        attention_mask=rows(0, 1),
        segments=rows(0, 2),
        two_way=rows(0, 2),
        window=draw(st.none() | st.integers(1, 10)),
        visible=visible,
    )
    return spec, q_len, k_len


def by_the_rule(spec: MaskSpec, q_len: int, k_len: int) -> torch.Tensor:
    allow = torch.zeros(2, 1, q_len, k_len, dtype=torch.bool)
    for b in range(2):
        for t in range(q_len):
            i = k_len - q_len + t
            for j in range(k_len):
                see = (j <= i or not spec.causal) and (spec.window is None or abs(i - j) < spec.window)
                if spec.two_way is not None:
                    see |= bool(spec.two_way[b, i] > 0 and spec.two_way[b, i] == spec.two_way[b, j])
                if spec.segments is not None:
                    see &= bool(spec.segments[b, i] == spec.segments[b, j])
                if spec.attention_mask is not None:
                    see &= bool(spec.attention_mask[b, j])
                if spec.visible is not None:
                    see &= bool(spec.visible[b, t, j])
                allow[b, 0, t, j] = see
    return allow


@settings(max_examples=150, deadline=None)
@given(cases())
def test_dense_is_the_rule(case: tuple[MaskSpec, int, int]) -> None:
    spec, q_len, k_len = case
    dense = spec.dense(q_len, k_len)
    if dense is None:
        dense = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    assert torch.equal(dense.expand(2, 1, q_len, k_len), by_the_rule(spec, q_len, k_len))


@settings(max_examples=80, deadline=None)
@given(cases())
def test_prepared_attention_is_softmax_over_visible_keys_and_zero_without_any(
    case: tuple[MaskSpec, int, int],
) -> None:
    spec, q_len, k_len = case
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 8, generator=generator) for n in (q_len, k_len, k_len))
    out = attend(q, k, v, spec.prepare(q_len, k_len))
    allow = by_the_rule(spec, q_len, k_len)
    weights = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~allow, -1e30).softmax(-1)
    expected = torch.where(allow.any(-1, keepdim=True), weights @ v, 0.0)
    assert (out - expected).abs().max() <= 1e-5
    assert (out[~allow.any(-1).expand(2, 4, q_len)] == 0).all()


def test_rows_without_keys_give_finite_gradients() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    visible = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 0]]]).bool()
    out = attend(q, k, v, MaskSpec(causal=False, visible=visible).prepare(3, 3))
    assert (out[:, :, 0] == 0).all()
    out.square().sum().backward()
    for x in (q, k, v):
        assert x.grad is not None and x.grad.isfinite().all()


def test_nothing_masked_builds_nothing() -> None:
    assert MaskSpec(causal=False).prepare(6, 6).allow is None
    for spec in (MaskSpec(), MaskSpec(window=6)):
        full, step = spec.prepare(6, 6), spec.prepare(1, 6)
        assert full.causal and full.allow is None
        assert not step.causal and step.allow is None
    assert MaskSpec().prepare(3, 6).allow is not None


def test_a_mask_without_padding_goes_at_the_border_and_stays_correct_where_it_may_not_be_read() -> None:
    whole, padded = torch.ones(2, 6, dtype=torch.long), torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert padding_mask(None) is None and padding_mask(whole) is None and padding_mask(padded) is padded
    elsewhere = torch.ones(2, 6, dtype=torch.long, device="meta")
    assert padding_mask(elsewhere) is elsewhere
    q, k, v = (torch.randn(2, 4, 6, 8) for _ in range(3))
    fast, dense = (attend(q, k, v, MaskSpec(attention_mask=mask).prepare(6, 6)) for mask in (None, whole))
    assert (fast - dense).abs().max() <= 1e-5


@pytest.mark.parametrize("window", [None, 3])
def test_preparing_reads_nothing_back(window: int | None) -> None:
    """On the meta device every read of a value is an error."""
    rows = torch.ones(2, 6, dtype=torch.long, device="meta")
    for changes in ({"attention_mask": rows}, {"segments": rows}, {"two_way": rows, "attention_mask": rows}):
        prepared = MaskSpec(window=window, **changes).prepare(4, 6, "meta")
        assert prepared.allow is not None and prepared.allow.device.type == "meta"


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cached too"):
        MaskSpec(attention_mask=torch.ones(1, 3)).prepare(1, 5)
    with pytest.raises(ValueError, match="visible"):
        MaskSpec(causal=False, visible=torch.ones(1, 2, 5)).dense(3, 5)


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert position_ids_from_mask(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    packed = torch.tensor([[1, 1, 2, 2], [1, 2, 2, 0]])
    assert position_ids_from_mask(mask, packed).tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
