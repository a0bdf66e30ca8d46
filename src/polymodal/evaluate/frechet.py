"""Two sets of features: Fréchet distance (FID, FAD, FVD by what the features are) and kernel distance (KID).

A row has `features` of a real picture, sound or video; a prediction is those of one that was made, as many numbers.
Which is in which row does not matter.  Both distances are lower for better.
    Fréchet   |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), means and covariances with 1/(N-1) (Heusel et al. 2017,
              arXiv 1706.08500).  FID: Inception-v3's pool3, 2048; FAD: VGGish; FVD: I3D's logits
    KID       unbiased MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401), 0 on average
              for sets of one kind, so it may be below 0.  clean-fid takes the mean over subsets of 1000, this all

tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric.  The Fréchet
distance falls with N (use 10,000 or more, the same for all models); resampled sets repeat rows, whose
distance is larger, so no interval is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Scored
from polymodal.evaluate.values import given, vector


def frechet_distance(one: ArrayLike, other: ArrayLike) -> float:
    """Fréchet distance of features [N, D] and [M, D].  Raises ConfigError for fewer than two rows."""
    first, second = _both(one, other)
    means = [each.mean(0) for each in (first, second)]
    # torch.cov gives one number, not a table, for features of one number.
    spreads = [torch.atleast_2d(torch.cov(each.T)) for each in (first, second)]
    values, vectors = torch.linalg.eigh(spreads[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ spreads[1] @ root).clamp(min=0).sqrt().sum()
    gap = (means[0] - means[1]).square().sum()
    return float(gap + spreads[0].trace() + spreads[1].trace() - 2 * cross)


def kernel_distance(one: ArrayLike, other: ArrayLike) -> float:
    """KID of features [N, D] and [M, D].  Raises ConfigError for fewer than two rows."""
    first, second = _both(one, other)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: torch.Tensor) -> torch.Tensor:
        table = kernel(x, x)
        return (table.sum() - table.trace()) / (len(x) * (len(x) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def feature_rows(samples: Sequence[Scored]) -> np.ndarray:
    """[N, 1 + 2D]: how near the two lie, the features of the record, those of the prediction."""
    rows = [(real_features(each.record), vector(each.prediction, "prediction")) for each in samples]
    sizes = sorted({len(each) for row in rows for each in row})
    if len(sizes) > 1:
        raise ConfigError(f"features: expected as many numbers in every row and prediction, found {sizes}")
    real, made = (np.array(column) for column in zip(*rows, strict=True))
    return np.column_stack([-np.linalg.norm(made - real.mean(0), axis=1), real, made])


def real_features(record: Mapping[str, Any]) -> np.ndarray:
    """The features of what is real."""
    return vector(given(record, "features"), "features")


def _both(one: ArrayLike, other: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (torch.from_numpy(np.array(each, np.float64)) for each in (one, other))
    shapes = [tuple(each.shape) for each in (first, second)]
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ConfigError(f"features: expected two tables [N, D] of two rows or more with one D, found {shapes}")
    return first, second


def _total(distance: Callable[[ArrayLike, ArrayLike], float]) -> Callable[[np.ndarray], float]:
    return lambda rows: distance(*np.split(rows[:, 1:], 2, axis=1))


_metric = partial(Metric, read=feature_rows, rows=np.asarray, best="low", resampled=0, asks=real_features)
FRECHET = _metric(name="Fréchet distance", total=_total(frechet_distance))
KID = _metric(name="KID", total=_total(kernel_distance))
