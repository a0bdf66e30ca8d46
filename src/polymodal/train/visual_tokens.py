"""Objectives of codecs: of BEiT v2 (arXiv 2208.06366), codes from a teacher's features; of 4M (arXiv 2312.06647), codes
from which what was read can be written again.

VectorQuantizedDistillation   batch: pixel_values in -1 .. 1, teacher_features [N, P, F] of a frozen teacher
FeatureCoding                 batch: pixel_values [N, C, H, W], or classes [N, H, W]
MaskedImageModeling (train/objectives.py) with `labels` of the tokenizer trains the masked model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.feature_codec import FeatureCodec
from polymodal.models.visual_tokenizer import VisualTokenizer
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class VectorQuantizedDistillation:
    """begin: codes start as the k-means of the first batch; they then follow what chooses them."""

    name: ClassVar[str] = "vector_quantized_distillation"
    begin: bool = True

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, VisualTokenizer):
            raise ConfigError("objective: vector-quantized distillation needs a VisualTokenizer")
        return VectorQuantizedDistillationLoss(self.begin)


class VectorQuantizedDistillationLoss(Loss):
    """See VectorQuantizedDistillation; holds whether the codes have begun."""

    begun: Tensor

    def __init__(self, begin: bool) -> None:
        super().__init__()
        self.register_buffer("begun", torch.tensor([not begin]))

    def forward(self, model: Any, batch: Batch) -> Losses:
        wanted = batch.get("teacher_features")
        if wanted is None:
            raise ConfigError("objective: distillation needs teacher_features [N, P, F] in the batch")
        if not bool(self.begun):
            model.begin(model.vectors(batch["pixel_values"]))
            self.begun.fill_(True)
        found = model(pixel_values=batch["pixel_values"], teacher_features=wanted)
        if model.training:
            model.follow(found.hidden.detach(), found.predictions["tokens"])
        return dict(found.losses)


@dataclass(frozen=True, kw_only=True)
class FeatureCoding:
    """What was read is written again, vectors come near their codes, and codes follow what chooses them."""

    name: ClassVar[str] = "feature_coding"

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, FeatureCodec) or model.writer is None:
            raise ConfigError("objective: feature coding needs a FeatureCodec with a writing half")
        return FeatureCodingLoss()


class FeatureCodingLoss(Loss):
    """See FeatureCoding."""

    def forward(self, model: Any, batch: Batch) -> Losses:
        found = model(pixel_values=batch["pixel_values"], return_loss=True)
        if model.training:
            model.codebook.follow(found.hidden.detach(), found.predictions["tokens"])
        return dict(found.losses)
