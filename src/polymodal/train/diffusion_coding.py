"""The objective of codecs that write by diffusion (DiVAE, arXiv 2206.00386): what is to be seen in noised pictures.

    pictures -> ids -> codes;  pictures + noise at a time of each -> the writing half, with the codes -> what it sees

The codec's own config says what is to be seen (the clean picture in 4M's), how noise grows and the distance.
Trap: conditions are not left out at random; the published configs do so in no step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.data.datasets.sample import Sample
from polymodal.errors import ConfigError
from polymodal.generators.patch_diffusion import PatchDiffusion
from polymodal.models.feature_codec import FeatureCodec
from polymodal.train.collator import Collator, Learner, MicroBatch, counted
from polymodal.train.objectives import Batch, Loss, Losses
from polymodal.train.visual_tokens import PlaceMaps


def writing_half(model: nn.Module) -> PatchDiffusion:
    """Raises ConfigError for a model that has none which diffuses."""
    if not isinstance(model, FeatureCodec) or model.diffusion is None:
        raise ConfigError("objective: this stage trains a codec of features whose writing half diffuses")
    return model.diffusion


@dataclass(frozen=True, kw_only=True)
class DiffusionCoding:
    """Reader, codes and writing half at once.

    Batch: pixel_values [N, C, H, W]; `noise` of that shape and `timesteps` [N], drawn here where a batch has none.
    """

    name: ClassVar[str] = "diffusion_coding"

    def build(self, model: nn.Module) -> Loss:
        return DiffusionCodingLoss(writing_half(model).config.sampler.schedule.trained)

    def collator(self, learner: Learner) -> Collator:
        """Pictures, or maps of what is known of their places, with noise."""
        trained = writing_half(learner.module).config.sampler.schedule.trained
        assert isinstance(learner.module, FeatureCodec)
        return NoisedMaps(maps=PlaceMaps(codec=learner.module), trained=trained)


@dataclass(frozen=True, kw_only=True)
class NoisedMaps(Collator):
    """trained: steps of the schedule."""

    expects: ClassVar[str] = PlaceMaps.expects

    maps: PlaceMaps
    trained: int

    def item(self, sample: Sample) -> Tensor:
        """A map alone.  Raises WrongKind, PromptError."""
        return self.maps.item(sample)

    def drawn(self, sample: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A map, its noise and its time."""
        values = self.item(sample)
        time = torch.randint(self.trained, (), generator=generator)
        return values, torch.randn(values.shape, generator=generator), time

    def batch(self, items: Sequence[tuple[Tensor, Tensor, Tensor]], generator: torch.Generator) -> MicroBatch:
        """pixel_values, noise, timesteps."""
        values, noise, times = (torch.stack(list(each)) for each in zip(*items, strict=True))
        return counted({"pixel_values": values, "noise": noise, "timesteps": times}, len(items))


class DiffusionCodingLoss(Loss):
    """See DiffusionCoding.  trained: the steps of the schedule."""

    def __init__(self, trained: int) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, model: Any, batch: Batch) -> Losses:
        pixels = batch["pixel_values"]
        drawn = {"noise": torch.randn_like(pixels),
                 "timesteps": torch.randint(self.trained, (len(pixels),), device=pixels.device)}  # fmt: skip
        found = model(**{**drawn, **batch}, return_loss=True)
        if model.training:
            model.codebook.follow(found.hidden.detach(), found.predictions["tokens"])
        return dict(found.losses)
