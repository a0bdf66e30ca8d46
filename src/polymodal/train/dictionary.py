"""Learning the atoms of a JointDictionary: codes by the atoms there are, then a step of the atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.joint_dictionary import JointDictionary
from polymodal.train.collator import Collator, Learner
from polymodal.train.feature_batches import feature_batches
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class Dictionaries:
    """Reconstruction and penalty of the best codes (MDL).  Batch: inputs; labels are not read.

    Means and deviations of the z-scores are those of the first batch: make it large.
    """

    name: ClassVar[str] = "dictionaries"

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, JointDictionary):
            raise ConfigError(f"objective: dictionaries are of a JointDictionary, not of a {type(model).__name__}")
        return DictionariesLoss()

    def collator(self, learner: Learner) -> Collator:
        """Vectors of the groups; labels are not needed."""
        return feature_batches(learner.module)


class DictionariesLoss(Loss):
    """See Dictionaries.  begun: whether the z-scores are known."""

    begun: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("begun", torch.zeros(1, dtype=torch.long))

    def forward(self, model: Any, batch: Batch) -> Losses:
        given = {name: value for name, value in batch.items() if name != "labels"}
        if self.training and not self.begun:
            model.measure(given)
            self.begun.fill_(1)
        groups = model.groups(given)
        return dict(model.objective(groups, model.codes(groups)))
