"""Several right names of a picture, learned by a connector of names (MIL-NCE, arXiv 1912.06430).

    {"image": "a.jpg", "labels": ["cat", "kitten"]} -> pixel_values ..., right [B, C] of the model's C names
    encoders.image, frozen -> connectors.image.summary -> dropout -> recall -> unit vector . keys -> logits [B, C]

The keys of the names are learned beside the model, with the scale of the cosines fixed; when the stage ends they are
written into the connector, whose other values (sentence vectors, what weighs both) are solved and not learned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from polymodal.connectors.names import NamesConnector
from polymodal.data.datasets.sample import Sample
from polymodal.data.processor import Modality, Processor
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.losses import names_loss
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted
from polymodal.train.labelled import UnknownLabel, picture_of
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class MultipleInstance:
    """`right` [B, C] bool against logits [B, C]: those of a connector of names, else the model's own.

    dropout: of the connector's summary.  log_scale: of the cosines.
    """

    name: ClassVar[str] = "multiple_instance"
    dropout: float = 0.0
    log_scale: float = 3.6

    def build(self, model: nn.Module) -> Loss:
        return NamesLoss(self, names_of(model)) if isinstance(model, MultimodalLM) else LogitsLoss()

    def collator(self, learner: Learner) -> Collator:
        """Pictures with names for a model with a connector of names.  Raises ConfigError for another."""
        connector, processor = names_of(learner.module), learner.processor
        if not isinstance(processor, Processor) or len(learner.labels) != connector.config.classes:
            raise ConfigError(
                f"the connector learns {connector.config.classes} names; the model tells {len(learner.labels)} of them"
            )
        return NamedPictures(modality=processor.modalities["image"], names=learner.labels)

    def fold(self, loss: nn.Module, model: Any) -> None:
        """The keys, and the scale they were learned with, into the connector."""
        if isinstance(loss, NamesLoss):
            connector = names_of(model)
            with torch.no_grad():
                connector.class_keys.copy_(F.normalize(loss.keys, dim=-1))
                connector.mix[1] = self.log_scale


def names_of(model: nn.Module) -> NamesConnector:
    """The connector of names of a model.  Raises ConfigError for a model without one."""
    found = dict(model.connectors.items()).get("image") if isinstance(model, MultimodalLM) else None
    if not isinstance(found, NamesConnector):
        raise ConfigError("objective: names of pictures are learned by a connector of names, which this model lacks")
    return found


class LogitsLoss(Loss):
    """Of a model that gives the logits itself."""

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        given = {name: value for name, value in batch.items() if name != "right"}
        return {"names": names_loss(model(**given).logits, batch["right"])}


class NamesLoss(Loss):
    """keys [C, R]: of the names, unit vectors at first."""

    def __init__(self, config: MultipleInstance, connector: NamesConnector) -> None:
        super().__init__()
        self.config = config
        self.keys = nn.Parameter(F.normalize(torch.randn_like(connector.class_keys), dim=-1))

    def forward(self, model: Any, batch: Batch) -> Losses:
        connector = names_of(model)
        summary = connector.summary(model.encoded("image", batch))
        dropped = F.dropout(summary, self.config.dropout, training=self.training)
        vectors = F.normalize(connector.recall(dropped), dim=-1)
        scale = torch.tensor(self.config.log_scale).exp()
        return {"names": names_loss(vectors @ F.normalize(self.keys, dim=-1).T * scale, batch["right"])}


@dataclass(frozen=True, kw_only=True)
class NamedPictures(Collator):
    """modality: of pictures.  names: that are learned, in the order of the keys."""

    expects: ClassVar[str] = "pictures with names each"

    modality: Modality
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {name: index for index, name in enumerate(self.names)})

    def item(self, sample: Sample) -> tuple[Any, list[int]]:
        """What the model takes of the picture, and the numbers of its names; of those that are learned."""
        picture = picture_of(sample)
        told = [sample.labels] if isinstance(sample.labels, str) else sample.labels
        if not isinstance(told, list) or not all(isinstance(each, str) for each in told) or not told:
            raise WrongKind("has no names as labels")
        index: dict[str, int] = vars(self)["_index"]
        right = [index[each] for each in told if each in index]
        if not right:
            raise UnknownLabel(f"none of its names is one of the {len(self.names)} that are learned: {told[0][:60]!r}")
        return self.modality.transform(picture), right

    def batch(self, items: Sequence[tuple[Any, list[int]]], generator: torch.Generator) -> MicroBatch:
        """The tensors of the pictures, and `right` [B, C]."""
        values, names = zip(*items, strict=True)
        right = torch.zeros(len(items), len(self.names), dtype=torch.bool)
        for row, each in enumerate(names):
            right[row, each] = True
        return counted({**self.modality.batch(list(values)), "right": right}, len(items))
