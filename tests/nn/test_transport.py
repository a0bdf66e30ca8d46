"""Optimal transport against linear programming by exhaustion, and its marginals."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.nn.transport import transport_distance, transport_plan


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_of_equal_sets_the_cheapest_matching_is_found(seed: int, count: int) -> None:
    cost = torch.rand(1, count, count, generator=torch.Generator().manual_seed(seed))
    real = torch.ones(1, count, dtype=torch.bool)
    plan = transport_plan(cost, real, real, beta=0.1, steps=400)
    best = min(sum(float(cost[0, i, j]) for i, j in enumerate(order)) for order in permutations(range(count))) / count
    assert float((plan * cost).sum()) == pytest.approx(best, abs=2e-2)


def test_mass_is_one_and_padding_has_none() -> None:
    cost = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([[True, True, True, False], [False, True, True, False]])
    columns = torch.tensor([[True] * 6, [False, True, True, True, False, False]])
    plan = transport_plan(cost, rows, columns, steps=200)
    assert torch.allclose(plan.sum(2), rows / rows.sum(1, keepdim=True), atol=1e-4)
    assert torch.allclose(plan.sum(1), columns / columns.sum(1, keepdim=True), atol=2e-2)
    assert not plan[~(rows[:, :, None] & columns[:, None, :])].any()


def test_equal_sets_are_near_and_the_gradient_brings_others_nearer() -> None:
    vectors = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    real = torch.ones(1, 3, dtype=torch.bool)
    assert transport_distance(vectors, vectors.flip(1), real, real).item() < 0.05
    words = (-vectors).clone().requires_grad_()
    far = transport_distance(words, vectors, real, real)
    far.sum().backward()
    nearer = transport_distance(words.detach() - words.grad, vectors, real, real)
    assert nearer.item() < far.item()
    nothing = transport_distance(vectors, vectors, real, torch.zeros_like(real))
    assert nothing.tolist() == [0.0]
