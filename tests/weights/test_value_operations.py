"""Operations and joins: equal to an independent formula, and undone exactly by their inverses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.weights.joins import Agree, Copy, Fuse, Same, Split, Stack, Unstack
from polymodal.weights.operations import (
    Cast,
    Operation,
    Reshape,
    ResizePositions,
    ResizeRows,
    RopeOrder,
    Scale,
    Shift,
    Squeeze,
    Transpose,
    Unsqueeze,
    to_half_split,
    to_interleaved,
)

few = st.integers(1, 4)


@settings(max_examples=60, deadline=None)
@given(heads=few, pairs=few, rest=st.integers(0, 3), width=st.integers(0, 3), halves=st.booleans())
def test_rope_order_moves_each_row_where_the_definition_says(heads, pairs, rest, width, halves):
    size = 2 * pairs + rest
    x = torch.randn(heads * size, *([width] if width else []))
    operation = RopeOrder(heads, halves, rotary=2 * pairs)
    y = operation(x)
    for head in range(heads):
        for row in range(size):
            to = row
            if row < 2 * pairs:
                # pairs (2i, 2i+1) <-> halves (i, i + pairs)
                to = row // 2 + (row % 2) * pairs if halves else 2 * (row % pairs) + row // pairs
            assert torch.equal(y[head * size + to], x[head * size + row])
    assert torch.equal(operation.inverse()(y), x)


def test_rope_order_changes_nothing_in_the_attention_scores():
    """Half-split weights with half-split rope give the scores of interleaved weights with interleaved rope."""
    heads, size, width, tokens = 3, 8, 5, 6
    q, k = torch.randn(2, heads * size, width, dtype=torch.float64)
    x = torch.randn(tokens, width, dtype=torch.float64)
    angle = torch.arange(tokens)[:, None] * 10.0 ** -torch.arange(size // 2, dtype=torch.float64)

    def interleaved(w):
        y = (x @ w.T).view(tokens, heads, size // 2, 2)
        a, b, c, s = y[..., 0], y[..., 1], angle.cos()[:, None], angle.sin()[:, None]
        return torch.stack((a * c - b * s, b * c + a * s), -1).flatten(2)

    def halves(w):
        y = (x @ w.T).view(tokens, heads, size)
        a, b, c, s = y[..., : size // 2], y[..., size // 2 :], angle.cos()[:, None], angle.sin()[:, None]
        return torch.cat((a * c - b * s, b * c + a * s), -1)

    turn = to_half_split(heads)
    first = torch.einsum("thd,shd->hts", interleaved(q), interleaved(k))
    second = torch.einsum("thd,shd->hts", halves(turn(q)), halves(turn(k)))
    assert (first - second).abs().max() < 1e-10
    assert torch.equal(to_interleaved(heads)(turn(q)), q)


EXACT = [
    (Transpose(), (3, 4)),
    (Transpose(0, 2), (2, 3, 4)),
    (Reshape((2, 6), (3, 4)), (2, 6)),
    (Squeeze(1), (3, 1, 2)),
    (Unsqueeze(0), (3, 2)),
    (to_half_split(2, rotary=4), (12, 3)),
    (ResizeRows(5, 8), (5, 2)),
    (ResizePositions((3, 3), (3, 3), leading=1), (1, 10, 4)),
    (Scale(0.5), (3,)),
]


@pytest.mark.parametrize(("operation", "shape"), EXACT, ids=lambda x: type(x).__name__)
def test_inverse_is_the_identity(operation: Operation, shape):
    x = torch.randn(shape)
    y = operation(x)
    assert torch.equal(operation.inverse()(y), x)
    assert operation.shape(shape) == tuple(y.shape)


def test_cast_and_shift_go_back():
    x = torch.randn(4, 3).half()
    assert torch.equal(Cast(torch.float16, torch.float32).inverse()(Cast(torch.float16, torch.float32)(x)), x)
    y = torch.randn(5)
    assert (Shift(-1.0).inverse()(Shift(-1.0)(y)) - y).abs().max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(groups=few, lengths=st.lists(few, min_size=1, max_size=4), dim=st.integers(0, 1))
def test_split_undoes_fuse_and_keeps_groups_together(groups, lengths, dim):
    sizes = tuple(groups * n for n in lengths)
    parts = [torch.randn((s, 3) if dim == 0 else (3, s)) for s in sizes]
    join = Fuse(len(sizes), sizes, dim, groups)
    (whole,) = join(parts)
    expected = [part.chunk(groups, dim)[g] for g in range(groups) for part in parts]
    assert torch.equal(whole, torch.cat(expected, dim))
    for back, part in zip(join.inverse()([whole]), parts, strict=True):
        assert torch.equal(back, part)


def test_fused_heads_are_gpt_neox():
    """groups = heads puts q, k, v of one head next to each other."""
    heads, size = 3, 2
    q, k, v = torch.arange(6.0), torch.arange(6.0) + 10, torch.arange(6.0) + 20
    (whole,) = Fuse(3, groups=heads)([q, k, v])
    view = whole.view(heads, 3, size)
    assert torch.equal(view[:, 0].flatten(), q)
    assert torch.equal(view[:, 2].flatten(), v)


def test_stack_and_copy():
    parts = list(torch.randn(4, 2, 3))
    (whole,) = Stack(4)(parts)
    assert whole.shape == (4, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(Stack(4).inverse()([whole]), parts, strict=True))
    copies = Copy(3)(parts[:1])
    assert len(copies) == 3 and torch.equal(Agree(3)(copies)[0], parts[0])
    with pytest.raises(ConfigError, match="become different"):
        Agree(2)([parts[0], parts[1]])
    assert Same()(parts) == parts


def test_resize_positions_keeps_leading_rows_and_matches_interpolate():
    x = torch.randn(1, 1 + 16, 6)
    y = ResizePositions((4, 4), (6, 8), leading=1)(x)
    assert y.shape == (1, 49, 6)
    assert torch.equal(y[:, 0], x[:, 0])
    grid = x[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, size=(6, 8), mode="bicubic", align_corners=False)
    assert (y[:, 1:] - wanted.permute(0, 2, 3, 1).reshape(1, 48, 6)).abs().max() <= 1e-6
    # Back: exactly where the grid is smaller than the table, as near as a table can be where it is larger.
    fewer, more = ResizePositions((4, 4), (3, 2), leading=1), ResizePositions((4, 4), (6, 8), leading=1)
    small, large = torch.randn(1, 7, 6), torch.randn(1, 49, 6)
    assert (fewer(fewer.inverse()(small)) - small).abs().max() < 1e-5
    assert (more.inverse()(y) - x).abs().max() < 1e-4
    nearest = more.inverse()(large)
    error = (more(nearest) - large).square().sum()
    for _ in range(20):
        assert (more(nearest + 0.01 * torch.randn_like(nearest)) - large)[:, 1:].square().sum() > error
    line = ResizePositions((4,), (8,))(torch.arange(4.0)[:, None].expand(4, 2))
    assert line.shape == (8, 2) and (line.diff(dim=0) >= 0).all()


WRONG = [
    (lambda: Reshape((2, 3), (4,)), "different numbers"),
    (lambda: Reshape((2, 3), (6,))(torch.zeros(6)), "expected shape"),
    (lambda: Squeeze(0)(torch.zeros(2)), "not of size 1"),
    (lambda: Transpose().shape((3,)), "no dimensions -2 and -1"),
    (lambda: Unsqueeze(2)(torch.zeros(3)), "no dimension 2"),
    (lambda: Fuse(2, dim=1)([torch.zeros(2), torch.zeros(2)]), "no dimension 1"),
    (lambda: Fuse(2)([torch.zeros(2, 3), torch.zeros(2, 4)]), "different shapes"),
    (lambda: Agree(2).shapes([(2,), (3,)]), "different shapes"),
    (lambda: to_half_split(3)(torch.zeros(8, 2)), "3 heads"),
    (lambda: to_half_split(2)(torch.zeros(6, 2)), "not even"),
    (lambda: ResizePositions((2, 2), (3,)), "both be"),
    (lambda: ResizePositions((2, 2), (3, 3))(torch.zeros(5, 2)), "expected 4 rows"),
    (lambda: ResizeRows(4, 5)(torch.zeros(3)), "expected 4 rows"),
    (lambda: Scale(0.0), "not be zero"),
    (lambda: Fuse(2)([torch.zeros(2), torch.zeros(3)]), "expected lengths"),
    (lambda: Fuse(2, groups=2)([torch.zeros(3), torch.zeros(3)]), "divide into 2 groups"),
    (lambda: Split(2, (1, 1))([torch.zeros(3)]), "add up"),
    (lambda: Split(2, (1, 3), groups=2)([torch.zeros(4)]), "divide into 2 groups"),
    (lambda: Stack(2)([torch.zeros(2), torch.zeros(3)]), "different shapes"),
    (lambda: Stack(3).inverse()([torch.zeros(2, 2)]), "expected 3 entries"),
]


shapes = st.lists(st.integers(1, 6), max_size=4).map(tuple)
operations = st.one_of(
    st.builds(Transpose, st.integers(-3, 3), st.integers(-3, 3)),
    st.builds(Squeeze, st.integers(0, 3)),
    st.builds(Unsqueeze, st.integers(0, 3)),
    st.builds(RopeOrder, few, st.booleans(), st.sampled_from([None, 2, 4])),
    st.builds(ResizeRows, few, few),
    st.builds(ResizePositions, st.tuples(few), st.tuples(few), st.integers(0, 1)),
    st.builds(ResizePositions, st.tuples(few, few), st.tuples(few, few), st.integers(0, 1)),
    st.sampled_from([Cast(torch.float32, torch.float16), Shift(1.0), Scale(2.0), Reshape((2, 3), (6,))]),
)


@settings(max_examples=300, deadline=None)
@given(operation=operations, shape=shapes)
def test_shapes_are_told_without_a_tensor(operation: Operation, shape: tuple[int, ...]):
    """The arithmetic says what the run on real values gives, or refuses what the run refuses."""
    try:
        wanted = tuple(operation(torch.zeros(shape)).shape)
    except (ConfigError, IndexError, RuntimeError):
        with pytest.raises(ConfigError):
            operation.shape(shape)
    else:
        assert operation.shape(shape) == wanted


sizes = st.one_of(st.none(), st.lists(few, min_size=1, max_size=3).map(tuple))
joins = st.one_of(
    st.builds(Fuse, few, sizes, st.integers(0, 2), few),
    st.builds(Split, few, sizes, st.integers(0, 2), few),
    st.builds(Stack, few),
    st.builds(Unstack, few),
    st.builds(Copy, few),
    st.builds(Agree, few),
    st.just(Same()),
)


@settings(max_examples=300, deadline=None)
@given(join=joins, given_shapes=st.lists(shapes, min_size=1, max_size=3), alike=st.booleans())
def test_shapes_of_joins_are_told_without_a_tensor(join, given_shapes, alike: bool):
    if isinstance(join, Split | Unstack | Copy | Same):
        given_shapes = given_shapes[:1]
    elif alike or isinstance(join, Fuse):
        given_shapes = given_shapes[:1] * len(given_shapes)
    try:
        wanted = [tuple(x.shape) for x in join([torch.zeros(shape) for shape in given_shapes])]
    except (ConfigError, IndexError, RuntimeError):
        with pytest.raises(ConfigError):
            join.shapes(given_shapes)
    else:
        assert join.shapes(given_shapes) == wanted


@settings(max_examples=100, deadline=None)
@given(join=joins, shape=shapes.filter(len), count=few)
def test_views_are_where_the_join_puts_its_sources(join, shape, count):
    parts = [torch.randn(shape) for _ in range(1 if isinstance(join, Split | Unstack | Copy | Same) else count)]
    try:
        wanted = join(parts)
    except (ConfigError, RuntimeError):
        return
    found = [torch.empty_like(x) for x in wanted]
    views = join.views(found)
    if views is None:
        return
    for view, part in zip(views, parts, strict=True):
        assert view.is_contiguous()
        view.copy_(part)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_does_not_fit_is_said(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
