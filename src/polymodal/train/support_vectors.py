"""The objective of a support vector machine: its coefficients, solved on the host for the whole training set.

Early fusion + SVM (arXiv 1906.01815); the solver is models/kernel_machine.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.kernel_machine import KernelMachine, solve
from polymodal.train.collator import Collator, Learner
from polymodal.train.feature_batches import feature_batches
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class SupportVectors:
    """The coefficients of a KernelMachine on one batch, the whole training set, which stays the same in every step.

    Batch: features and their lengths, labels 0 and 1 [N].  cost: C.  scaled: numbers get mean 0 and variance 1 first.
    updates: pairs of coefficients improved in a step; at 0 violations above `tolerance` it is solved, whatever is left.
    The loss is the duality gap a sample before the step, as a share of its cost: 1 at the start, 0 at the optimum.  It
    has no gradient.
    """

    name: ClassVar[str] = "support_vectors"
    cost: float = 1.0
    scaled: bool = True
    updates: int = 100_000
    tolerance: float = 1e-3

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, KernelMachine):
            raise ConfigError(f"objective: support vectors are of a KernelMachine, not of a {type(model).__name__}")
        return SupportVectorsLoss(self)

    def collator(self, learner: Learner) -> Collator:
        return feature_batches(learner.module, labels=("M",), classes=True)


class SupportVectorsLoss(Loss):
    """See SupportVectors.  begun: whether the model holds the training set."""

    begun: Tensor

    def __init__(self, config: SupportVectors) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("begun", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def forward(self, model: Any, batch: Batch) -> Losses:
        labels = batch["labels"].reshape(-1)
        if not bool(((labels == 0) | (labels == 1)).all()) or len(labels.unique()) < 2:
            raise ConfigError(f"objective: support vectors part classes 0 and 1, found {labels.unique().tolist()}")
        if not self.training:  # held-out samples measure the machine, and are not learned
            return dict(model(**batch).losses)
        rows = model.joined(model.features(**{name: each for name, each in batch.items() if name != "labels"}))
        if not self.begun:
            model.hold(rows, self.config.scaled)
            self.begun.fill_(1)
        count = len(rows)
        held = model.vectors[:count].double()
        distance = torch.cdist(held, held, compute_mode="donot_use_mm_for_euclid_dist")
        kernel = torch.exp(-model.gamma.double() * distance.square()).cpu().numpy()
        signs = 2.0 * labels.cpu().numpy().astype(np.float64) - 1
        alphas = np.abs(model.coefficients[0, :count].double().cpu().numpy())
        cost, limit = self.config.cost, self.config.tolerance
        before = solve(kernel, signs, cost, alphas, updates=0, tolerance=limit)
        found = solve(kernel, signs, cost, alphas, updates=self.config.updates, tolerance=limit)
        model.coefficients[0, :count] = torch.from_numpy(found.alphas * signs).to(model.coefficients)
        model.bias.fill_(found.bias)
        return {"gap": torch.tensor(before.gap / (cost * count), dtype=torch.float32, device=rows.device)}
