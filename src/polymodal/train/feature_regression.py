"""Words, and vectors that stand among them: CoDi-2's objective (arXiv 2311.18775).

    next tokens at the labels; at places of vectors that an answer holds the cosine with what the state before foretells

Traps: vectors have no label of a token, they are named by `wanted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from polymodal.errors import ConfigError
from polymodal.models.feature_regression_lm import FeatureRegressionLM
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class FeatureRegression:
    """weight: of the cosines.  Batch: that of next tokens, and `wanted` bool [B, T]: placeholders whose vectors are
    learned."""

    name: ClassVar[str] = "feature_regression"
    weight: float = 0.1

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, FeatureRegressionLM):
            raise ConfigError(
                f"objective: vectors are foretold by a FeatureRegressionLM, not by {type(model).__name__}"
            )
        return FeatureRegressionLoss(self.weight)


class FeatureRegressionLoss(Loss):
    """See FeatureRegression."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        assert isinstance(model, FeatureRegressionLM)
        given = {name: value for name, value in batch.items() if name != "wanted"}
        output = model(**given)
        losses: Losses = dict(output.losses or {})
        wanted = batch.get("wanted")
        if wanted is not None and bool(wanted.any()):
            found, targets = model.foretold(output, given, wanted)
            losses["features"] = -self.weight * F.cosine_similarity(found.float(), targets.float(), dim=-1).mean()
        return losses
