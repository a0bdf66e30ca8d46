"""Alignment of two models' representations of the same samples (arXiv 2405.07987); nothing is learned.

    x_feats [N, Lx, D], y_feats [N, Ly, E]      features of the same N samples, of every layer of each model
        -> outliers clamped over all layers together -> each layer's vectors to length 1
        -> the measure of every pair of layers [Lx, Ly] -> the largest of them, and which pair that is

Traps: clamping comes before normalising; the rows of both must be the same samples in the same order; the result is
the best pair of layers, which grows with their number, so compare it with shuffled rows (`study convergence` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.representation_similarity import NEIGHBOURS, clamp_outliers, metric, mutual_knn_of_all

Features = Tensor | Sequence[Tensor]
AT_ONCE = 1 << 28  # marks of neighbours in memory at a time


@dataclass(frozen=True, kw_only=True)
class RepresentationAlignmentConfig:
    """metric: a name of nn/representation_similarity.py.  topk: neighbours that count.  quantile: of the absolute
    values at which outliers are clamped, 1 for none; exact: of all values at once (else sample by sample)."""

    metric: str = "mutual_knn"
    topk: int = 10
    quantile: float = 0.95
    exact: bool = True
    normalize: bool = True

    def __post_init__(self) -> None:
        metric(self.metric, self.topk)
        if type(self.topk) is not int or self.topk < 1:
            raise ConfigError(f"alignment: topk must be a whole number of 1 or more, found {self.topk!r}")
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"alignment: quantile must lie above 0 and at most at 1, found {self.quantile!r}")

    def build(self) -> RepresentationAlignment:
        return RepresentationAlignment(self)


class RepresentationAlignment(nn.Module):
    """See the module docstring; it has no parameters."""

    output_fields = frozenset({"predictions"})

    def __init__(self, config: RepresentationAlignmentConfig) -> None:
        super().__init__()
        self.config = config

    def layers(self, features: Features, name: str = "features") -> list[Tensor]:
        """[N, D] of each layer, clamped and normalised.

        features: [N, L, D], [N, D] of one layer, or a list of [N, D_i] of layers of unequal widths, which are clamped
        one by one.  Raises PromptError for others.
        """
        one = features[:, None] if isinstance(features, Tensor) and features.dim() == 2 else features
        single = [one] if isinstance(one, Tensor) else [each[:, None] if each.dim() == 2 else each for each in one]
        found: list[Tensor] = []
        for each in single:
            if each.dim() != 3 or not each.numel() or not each.is_floating_point():
                raise PromptError(
                    f"{name}: expected floating-point features [N, layers, width], found {each.dtype} "
                    f"{list(each.shape)}"
                )
            if not bool(torch.isfinite(each).all()):
                raise PromptError(f"{name}: expected finite features, found NaN or infinity; leave those samples out")
            clamped = clamp_outliers(each, self.config.quantile, self.config.exact)
            found += list((F.normalize(clamped, dim=-1) if self.config.normalize else clamped).unbind(1))
        return found

    def forward(self, *, x_feats: Features, y_feats: Features, **batch: Any) -> Output:
        """predictions: "alignment" [1], the largest; "layers" int64 [2], the pair, -1 where none is above 0; "scores"
        [Lx, Ly] of all pairs."""
        if unknown := sorted(name for name, value in batch.items() if value is not None):
            raise ConfigError(f"RepresentationAlignment: does not know {unknown[0]!r}; it takes x_feats and y_feats")
        scores = self.scores(self.layers(x_feats, "x_feats"), self.layers(y_feats, "y_feats"))
        values = scores.flatten().tolist()
        best = values.index(max(values))  # of equal pairs the first, as the official loop
        pair = (best // scores.shape[1], best % scores.shape[1]) if max(values) > 0 else (-1, -1)
        alignment = scores.max().clamp_min(0.0)[None]
        return Output(predictions={"alignment": alignment, "layers": torch.tensor(pair), "scores": scores})

    def scores(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
        """The measure of every pair of prepared layers [Lx, Ly].  Raises PromptError for unequal or too few rows."""
        if len(x[0]) != len(y[0]):
            raise PromptError(
                f"the two models must have features of the same samples: found {len(x[0])} and {len(y[0])} rows; give "
                "both the same samples in the same order"
            )
        least = self.config.topk + 1 if self.config.metric in NEIGHBOURS else 4
        if len(x[0]) < least:
            raise PromptError(f"{self.config.metric} needs {least} samples or more, found {len(x[0])}")
        if self.config.metric == "mutual_knn" and len(x[0]) ** 2 * (len(x) + len(y)) <= AT_ONCE:
            return mutual_knn_of_all(x, y, self.config.topk)
        measure = metric(self.config.metric, self.config.topk)
        return torch.tensor([[measure(a, b) for b in y] for a in x])
