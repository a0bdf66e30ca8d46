"""Measures of two sets of features: what must hold for any numbers, and against plain loops.

The numbers of the official code are in check/evidence/platonic.py.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.models.representation_alignment import RepresentationAlignmentConfig
from polymodal.nn.representation_similarity import (
    METRICS,
    cka,
    clamp_outliers,
    edit_distance_knn,
    lcs_knn,
    metric,
    mutual_knn,
    nearest_neighbours,
)

SEEDS = st.integers(0, 10_000)


def features(seed: int, rows: int = 14, width: int = 12) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(METRICS))
def test_features_agree_with_themselves(seed: int, name: str) -> None:
    x = features(seed)
    most = 5.0 if name == "lcs_knn" else 1.0
    assert metric(name, 5)(x, x) == pytest.approx(most, abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(METRICS))
def test_turning_one_space_or_reordering_both_changes_nothing(seed: int, name: str) -> None:
    x, y = features(seed), features(seed + 1) + 0.5 * features(seed)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed))).Q
    order = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
    measure = metric(name, 4)
    # svcca keeps ten directions of standardised columns, so it does not outlive a turn.
    turned = x if name == "svcca" else x @ turn
    assert measure(turned[order], y[order]) == pytest.approx(measure(x, y), abs=1e-4)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(1, 8))
def test_lists_of_neighbours_against_loops(seed: int, k: int) -> None:
    x, y = features(seed), features(seed + 1)
    pairs = list(zip(nearest_neighbours(x, k).tolist(), nearest_neighbours(y, k).tolist(), strict=True))
    assert all(i not in a for i, (a, _) in enumerate(pairs))
    shared = sum(len(set(a) & set(b)) for a, b in pairs) / len(pairs)
    assert mutual_knn(x, y, k) == pytest.approx(shared / k)
    assert lcs_knn(x, y, k) == pytest.approx(sum(common(a, b) for a, b in pairs) / len(pairs))
    edits = sum(distance(a, b) for a, b in pairs) / len(pairs)
    assert edit_distance_knn(x, y, k) == pytest.approx(1 - edits / k, abs=1e-6)
    assert 0 <= metric("cycle_knn", k)(x, y) <= 1


def common(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return 0
    return 1 + common(a[:-1], b[:-1]) if a[-1] == b[-1] else max(common(a[:-1], b), common(a, b[:-1]))


def distance(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before if one == other else 1 + min(before, row[j], row[j - 1])
    return row[-1]


def test_chance_is_k_of_the_others() -> None:
    found = [mutual_knn(features(i, 101), features(1000 + i, 101), 10) for i in range(20)]
    assert sum(found) / 20 == pytest.approx(10 / 100, abs=0.01)


def test_a_gaussian_kernel_of_wide_sigma_is_nearly_the_linear_one() -> None:
    x, y = features(1), features(2)
    assert cka(x, y, "rbf", sigma=5.0) == pytest.approx(cka(x, y), abs=0.02)
    with pytest.raises(ConfigError, match="cka: kernel 'cosine' is not known; expected linear or rbf"):
        cka(x, y, "cosine")


def test_outliers_are_limited_over_all_layers_together() -> None:
    x = torch.arange(1.0, 101.0).view(10, 2, 5)
    assert float(clamp_outliers(x, 0.95, exact=True).max()) == 96
    assert float(clamp_outliers(x, 0.95).max()) == pytest.approx(54.55)
    assert torch.equal(clamp_outliers(x, 1), x)


def test_layers_of_unequal_widths_and_the_best_pair() -> None:
    model = RepresentationAlignmentConfig(topk=3).build()
    x, noise = features(3), features(4)
    found = model(x_feats=[noise, x], y_feats=[x, noise[:, :5], noise[:, :4]]).predictions
    assert found["scores"].shape == (2, 3) and found["layers"].tolist() == [1, 0]
    assert math.isclose(float(found["alignment"]), float(found["scores"].max()))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(20, 4), torch.rand(19, 4), "the same samples: found 20 and 19 rows"),
        (torch.rand(9, 4), torch.rand(9, 4), "mutual_knn needs 11 samples or more, found 9"),
        (torch.rand(20), torch.rand(20, 4), r"x_feats: expected floating-point features \[N, layers, width\], found"),
        (torch.ones(20, 4, dtype=torch.long), torch.rand(20, 4), "found torch.int64"),
        (torch.full((20, 4), math.nan), torch.rand(20, 4), "x_feats: expected finite features"),
        (torch.eye(40), torch.rand(40, 4), "95% of the values are 0"),
    ],
)
def test_features_that_cannot_be_compared(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        RepresentationAlignmentConfig().build()(x_feats=x, y_feats=y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "cosine"}, "metric 'cosine' is not known; expected one of mutual_knn"),
        ({"topk": 0}, "topk must be a whole number of 1 or more, found 0"),
        ({"quantile": 0.0}, "quantile must lie above 0"),
    ],
)
def test_options_that_are_none(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RepresentationAlignmentConfig(**options)
