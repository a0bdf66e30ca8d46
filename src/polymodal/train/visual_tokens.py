"""Objectives of BEiT v2 (arXiv 2208.06366): codes from a teacher's features, then masked patches named by codes.

VectorQuantizedDistillation   batch: pixel_values in -1 .. 1, teacher_features [N, P, F] of a frozen teacher,
                              which stand in a data file beside the picture, or as the name of a .npy file
FeatureCoding                 of 4M's codecs; data: {"map": "a.npy"}
MaskedImageModeling (train/objectives.py) with `labels` of the tokenizer trains the masked model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.data.datasets.sample import Sample
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders.feature_codec import PlaceMLPConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.feature_codec import FeatureCodec
from polymodal.models.visual_tokenizer import VisualTokenizer
from polymodal.pipelines.modality_turning import middle_square
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted
from polymodal.train.labelled import picture_of
from polymodal.train.objectives import Batch, Loss, Losses
from polymodal.train.pairs import pair_processor

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class VectorQuantizedDistillation:
    """begin: codes start as the k-means of the first batch; they then follow what chooses them."""

    name: ClassVar[str] = "vector_quantized_distillation"
    begin: bool = True

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, VisualTokenizer):
            raise ConfigError("objective: vector-quantized distillation needs a VisualTokenizer")
        return VectorQuantizedDistillationLoss(self.begin)

    def collator(self, learner: Learner) -> Collator:
        """Pictures, with what the teacher says of their patches."""
        if not isinstance(learner.module, VisualTokenizer):
            raise ConfigError("this checkpoint is no visual tokenizer, which is what this stage trains")
        shape = learner.module.config
        patches = shape.encoder.tokens - 1
        return TaughtPictures(processor=pair_processor(learner, texts=False), shape=(patches, shape.outputs))


@dataclass(frozen=True, kw_only=True)
class TaughtPictures(Collator):
    """shape: patches, and the width of the teacher's features."""

    expects: ClassVar[str] = "pictures with teacher_features each"

    processor: PairProcessor
    shape: tuple[int, int]

    def item(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Pixels, and features [P, F].  Raises PromptError for those of another shape."""
        pixels = self.processor.pixels(picture_of(sample))
        if (given := sample.arrays.get("teacher_features")) is None:
            raise WrongKind("has no teacher_features: what the teacher's encoder says of each patch, [P, F]")
        features = torch.as_tensor(given.values).float()
        if features.shape != self.shape:
            raise PromptError(f"its teacher_features are {list(features.shape)}; expected {list(self.shape)}")
        return pixels, features

    def batch(self, items: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> MicroBatch:
        """pixel_values, and teacher_features [N, P, F]."""
        pixels, features = zip(*items, strict=True)
        found = {**self.processor.collate(pixels, []), "teacher_features": torch.stack(features)}
        return counted(found, len(items))


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
    """What was read is written again, vectors come near their codes, and codes follow what chooses them (4M, arXiv
    2312.06647).  Batch: pixel_values [N, C, H, W], or classes [N, H, W]."""

    name: ClassVar[str] = "feature_coding"

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, FeatureCodec) or model.writer is None:
            raise ConfigError("objective: feature coding needs a FeatureCodec with a writing half")
        return FeatureCodingLoss()

    def collator(self, learner: Learner) -> Collator:
        """Maps of what is known of a picture's places, or pictures themselves."""
        if not isinstance(learner.module, FeatureCodec):
            raise ConfigError("this checkpoint is no codec of features, which is what this stage trains")
        return PlaceMaps(codec=learner.module)


@dataclass(frozen=True, kw_only=True)
class PlaceMaps(Collator):
    """Classes [H, W] or numbers [C, H, W] of the codec's own side; pictures for a codec of three channels."""

    expects: ClassVar[str] = "maps of pictures"

    codec: FeatureCodec

    def item(self, sample: Sample) -> Tensor:
        """Raises WrongKind where there is no map, PromptError for one of another shape."""
        config = self.codec.config
        reader = config.reader
        side = (1, 1) if isinstance(reader, PlaceMLPConfig) else tuple(reader.patch * each for each in reader.grid)
        channels = reader.source if isinstance(reader, PlaceMLPConfig) else reader.channels
        if (given := sample.arrays.get("map")) is None:
            if config.classes is None and channels == 3 and side[0] == side[1] and sample.media:
                return middle_square(picture_of(sample), side[0], HALF, HALF)
            raise WrongKind("has no map: what is known of the places of a picture, as a .npy file")
        values = torch.as_tensor(given.values)
        if side == (1, 1) and values.shape == (channels,):
            values = values[:, None, None]
        expected = side if config.classes is not None else (channels, *side)
        if tuple(values.shape) != expected:
            raise PromptError(f"its map is {list(values.shape)}; expected {list(expected)}")
        if config.classes is None:
            return values.float()
        if values.is_floating_point() or not 0 <= int(values.min()) <= int(values.max()) < config.classes:
            raise PromptError(f"its map must hold classes 0 .. {config.classes - 1} as whole numbers")
        return values.long()

    def batch(self, items: Sequence[Tensor], generator: torch.Generator) -> MicroBatch:
        """pixel_values."""
        return counted({"pixel_values": torch.stack(list(items))}, len(items))


class FeatureCodingLoss(Loss):
    """See FeatureCoding."""

    def forward(self, model: Any, batch: Batch) -> Losses:
        found = model(pixel_values=batch["pixel_values"], return_loss=True)
        if model.training:
            model.codebook.follow(found.hidden.detach(), found.predictions["tokens"])
        return dict(found.losses)
