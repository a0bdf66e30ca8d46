"""How alike two models see the same samples: measures of two feature matrices whose rows are the same things.

    x [N, D], y [N, E]  ->  nearest neighbours in each, or kernels [N, N] of each  ->  one number

    mutual_knn, cycle_knn, lcs_knn, edit_distance_knn    by the k nearest neighbours of each sample
    cka, unbiased_cka, cknna                             by kernels (arXiv 1905.00414; cknna within mutual neighbours)
    svcca                                                by canonical correlations of the main directions (1706.05806)

Paper: The Platonic Representation Hypothesis (arXiv 2405.07987).  Code: minyoungg/platonic-rep, metrics.py.
Traps: a sample is no neighbour of itself; neighbours are those of the largest inner product, so rows are normalised
first; rows of equal products are neighbours in no order that could be relied on.  The official svcca starts from
random directions and iterates, so it differs from run to run; here it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from polymodal.errors import ConfigError, PromptError

CHANCE = -1e8  # the product of a sample with itself, as the official code writes it
EPSILON = 1e-6  # of the official quotients


def clamp_outliers(features: Tensor, quantile: float = 0.95, exact: bool = False) -> Tensor:
    """Features of any shape [N, ...], float32, limited to +-q.

    exact: q is the value at that place of all absolute values in order.  Else the mean, over the samples, of the
    quantile of each, which is faster.  Raises PromptError where q is 0, since nothing would be left.
    """
    features = features.float()
    if quantile == 1:
        return features
    if exact:
        sizes = features.abs().flatten().sort().values
        limit = sizes[int(quantile * sizes.numel())]
    else:
        limit = torch.quantile(features.abs().flatten(1), quantile, dim=1).mean()
    if float(limit) == 0:
        raise PromptError(
            f"features {list(features.shape)}: {quantile:.0%} of the values are 0, so that clamping outliers leaves "
            "nothing of them; set quantile to 1, or give features that are not sparse"
        )
    return features.clamp(-limit, limit)


def nearest_neighbours(features: Tensor, k: int) -> Tensor:
    """[N, D] -> int64 [N, k], the nearest first, by inner product, without the sample itself."""
    return (features @ features.T).fill_diagonal_(CHANCE).argsort(dim=1, descending=True)[:, :k]


def mutual_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Share of the k nearest neighbours that are the same; k / (N - 1) by chance."""
    near_x, near_y = nearest_neighbours(x, k), nearest_neighbours(y, k)
    return float((near_x[:, :, None] == near_y[:, None]).any(2).float().sum(1).div(k).mean())


def mutual_knn_of_all(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int = 10) -> Tensor:
    """`mutual_knn` of every two of several matrices, [Lx, Ly]: neighbours are looked for once a matrix."""
    marks = [torch.stack([_marked(each, k) for each in some]) for some in (xs, ys)]
    return marks[0] @ marks[1].T / (k * len(xs[0]))


def _marked(features: Tensor, k: int) -> Tensor:
    """Float32 [N * N]: 1 where a column is among the k nearest of its row."""
    near = nearest_neighbours(features, k)
    return torch.zeros(len(near), len(near), device=near.device).scatter_(1, near, 1.0).flatten()


def cycle_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Share of samples that are neighbours in x of one of their neighbours in y."""
    there_and_back = nearest_neighbours(x, k)[nearest_neighbours(y, k)]
    own = torch.arange(len(x), device=x.device)[:, None, None]
    return float((there_and_back == own).flatten(1).any(1).float().mean())


def lcs_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Mean length of the longest common subsequence of the two lists of neighbours, 0 .. k."""
    same = nearest_neighbours(x, k)[:, :, None] == nearest_neighbours(y, k)[:, None]
    best = same.new_zeros(len(x), k + 1, k + 1, dtype=torch.float32)
    for i in range(k):
        for j in range(k):
            longer = torch.maximum(best[:, i, j + 1], best[:, i + 1, j])
            best[:, i + 1, j + 1] = torch.where(same[:, i, j], best[:, i, j] + 1, longer)
    return float(best[:, k, k].mean())


def edit_distance_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """1 - mean edit distance of the two lists of neighbours / k."""
    same = nearest_neighbours(x, k)[:, :, None] == nearest_neighbours(y, k)[:, None]
    steps = torch.arange(k + 1, dtype=torch.float32, device=x.device)
    cost = steps[:, None].maximum(steps).repeat(len(x), 1, 1)
    for i in range(k):
        for j in range(k):
            changed = torch.minimum(torch.minimum(cost[:, i, j], cost[:, i, j + 1]), cost[:, i + 1, j]) + 1
            cost[:, i + 1, j + 1] = torch.where(same[:, i, j], cost[:, i, j], changed)
    return float(1 - cost[:, k, k].mean() / k)


def hsic_biased(a: Tensor, b: Tensor) -> Tensor:
    """Trace of the product of two kernels [N, N], both centred."""
    centred = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (centred[0] * centred[1].T).sum()


def hsic_unbiased(a: Tensor, b: Tensor) -> Tensor:
    """Equation 5 of Song et al. (JMLR 2012), of two kernels [N, N] whose diagonals do not count."""
    count = len(a)
    a, b = a.clone().fill_diagonal_(0), b.clone().fill_diagonal_(0)
    whole = (a * b.T).sum() + a.sum() * b.sum() / ((count - 1) * (count - 2))
    return (whole - 2 * (a.sum(0) @ b.sum(1)) / (count - 2)) / (count * (count - 3))


def cka(x: Tensor, y: Tensor, kernel: str = "linear", sigma: float = 1.0, unbiased: bool = False) -> float:
    """Centred kernel alignment; kernel: "linear" or "rbf" of this sigma."""
    a, b = (_kernel(each, kernel, sigma) for each in (x, y))
    hsic = hsic_unbiased if unbiased else hsic_biased
    return float(hsic(a, b) / (torch.sqrt(hsic(a, a) * hsic(b, b)) + EPSILON))


def cknna(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Unbiased CKA in which only pairs count that are among the k nearest in both."""
    if k < 2:
        raise ConfigError(f"cknna needs 2 neighbours or more, found {k}")
    a, b = x @ x.T, y @ y.T
    near_a, near_b = (_near(each, k) for each in (a, b))
    mutual = near_a * near_b
    own = hsic_unbiased(near_a * a, near_a * a) * hsic_unbiased(near_b * b, near_b * b)
    return float(hsic_unbiased(mutual * a, mutual * b) / (torch.sqrt(own) + EPSILON))


def svcca(x: Tensor, y: Tensor, directions: int = 10) -> float:
    """Mean canonical correlation of the samples along the main directions of each, columns standardised."""
    bases = []
    for each in (x.double(), y.double()):
        scaled = (each - each.mean(0)) / (each.std(0) + 1e-8)
        left, sizes, _ = torch.linalg.svd(scaled, full_matrices=False)
        real = int((sizes[:directions] > sizes[0] * 1e-7).sum())
        bases.append(left[:, :real])
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).clamp_max(1).mean())


def _kernel(x: Tensor, kernel: str, sigma: float) -> Tensor:
    if kernel == "linear":
        return x @ x.T
    if kernel == "rbf":
        return torch.exp(-(torch.cdist(x, x) ** 2) / (2 * sigma**2))
    raise ConfigError(f"cka: kernel {kernel!r} is not known; expected linear or rbf")


def _near(products: Tensor, k: int) -> Tensor:
    """1 where a column is among the k largest of its row, the diagonal left out; else 0."""
    others = products.clone().fill_diagonal_(float("-inf"))
    return torch.zeros_like(products).scatter_(1, others.topk(k, dim=1).indices, 1.0)


NEIGHBOURS: Mapping[str, Callable[..., float]] = {
    "mutual_knn": mutual_knn,
    "cycle_knn": cycle_knn,
    "lcs_knn": lcs_knn,
    "edit_distance_knn": edit_distance_knn,
    "cknna": cknna,
}
OTHERS: Mapping[str, Callable[..., float]] = {"cka": cka, "unbiased_cka": partial(cka, unbiased=True), "svcca": svcca}
METRICS = (*NEIGHBOURS, *OTHERS)


def metric(name: str, k: int) -> Callable[[Tensor, Tensor], float]:
    """The measure of that name, f(x [N, D], y [N, E]) -> number.  Raises ConfigError for a name that is not known."""
    if name in NEIGHBOURS:
        return partial(NEIGHBOURS[name], k=k)
    if name in OTHERS:
        return OTHERS[name]
    raise ConfigError(f"metric {name!r} is not known; expected one of {', '.join(METRICS)}")
