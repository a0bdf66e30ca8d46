"""Objectives as data: what a stage learns.  `objective.build(model)` -> a Loss, called as loss(model, batch) -> losses.

    batch -> model(**batch) -> Output.losses              most: the model gives its losses when labels are in the batch
    batch -> several passes, a teacher, heads of its own  train/momentum.py, train/pretraining.py
    objective.collator(Learner) -> what samples of data files become in its batch  train/collator.py

A Loss is an nn.Module, so that a checkpoint saves what it holds (teacher, queues, heads that only training uses).
Losses are scalars by name, each with its weight in it; their sum is learned.  Only `forward` and public methods of a
model are called, so that sharded models work.  Masks are drawn by the collator; which tokens are learned is said by the
batch's labels, which are -100 elsewhere.
Traps: a batch's keys are the model's own input names; what else an objective reads is named in its docstring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.class_token_pretraining import ClassTokenPretraining
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.models.latent_diffusion import LatentDiffusion
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder
from polymodal.nn.losses import IGNORE
from polymodal.train.alignment import keep_within
from polymodal.train.captions import WrittenAnswers, WrittenCaptions
from polymodal.train.classified import classified
from polymodal.train.collator import Collates, Collator, Learner
from polymodal.train.conversations import conversations
from polymodal.train.labelled import LabelledSequences
from polymodal.train.masked import masked_pictures
from polymodal.train.pairs import PairCollator, pair_processor
from polymodal.train.signals import signalled
from polymodal.train.sources import EachSource

Batch = Mapping[str, Any]
Losses = dict[str, Tensor]


class Loss(nn.Module):
    """An objective built for a model: (model, batch) -> losses by name.  The model is not a child of it."""

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        raise NotImplementedError


@runtime_checkable
class Objective(Protocol):
    """What a stage learns; any frozen dataclass with these two is one, also in a user's own file."""

    name: ClassVar[str]

    def build(self, model: nn.Module) -> Loss:
        """Raises ConfigError for a model that cannot learn it."""
        ...


@runtime_checkable
class CopiesModel(Protocol):
    """An objective that keeps a copy of the model: it is built before that is shared out among processes."""

    copies_model: ClassVar[bool]


@runtime_checkable
class Folds(Protocol):
    """An objective that learns beside the model what belongs into it."""

    def fold(self, loss: nn.Module, model: Any) -> None:
        """Put it there, after the last step."""
        ...


class ModelLosses(Loss):
    """The losses that the model itself gives of a batch.

    given: further arguments of its forward.  rename: what its losses are called here.
    """

    def __init__(self, given: Batch | None = None, rename: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = dict(given or {})
        self.rename = dict(rename or {})

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        losses = model(**{**batch, **self.given}).losses
        if losses is None:
            raise ConfigError(
                f"objective: the model gives no loss of a batch of {', '.join(sorted(batch))}; add labels"
            )
        return {self.rename.get(name, name): loss for name, loss in losses.items()}


@dataclass(frozen=True, kw_only=True)
class LanguageModeling:
    """The next token, at the batch's labels; answers count by `answer_weights` [B] where the batch has them.

    z_loss_weight: of the squared logarithm of the softmax's sum (PaLM, arXiv 2204.02311).  picture_id_weight: how much
    an id of a picture counts as a label (vocabularies that hold pictures).  learn: modalities whose labels are kept,
    of "text" and those with placeholders; None: labels as they are.
    """

    name: ClassVar[str] = "language_modeling"
    z_loss_weight: float = 0.0
    label_smoothing: float = 0.0
    picture_id_weight: float = 1.0
    learn: tuple[str, ...] | None = None

    def build(self, model: nn.Module) -> Loss:
        return LanguageModelingLoss(self, model)

    def collator(self, learner: Learner) -> Collator:
        """Conversations; pictures with captions or answers for a model that reads a picture and writes."""
        module = learner.module
        if not isinstance(module, VisionEncoderDecoder):
            return conversations(learner)
        made = WrittenCaptions if module.question is None else WrittenAnswers
        return made(processor=pair_processor(learner), start=module.ids.bos, longest=learner.max_length)


class LanguageModelingLoss(ModelLosses):
    """See LanguageModeling; raises ConfigError for picture ids or modalities that a model does not have."""

    token_weights: Tensor | None

    def __init__(self, config: LanguageModeling, model: nn.Module) -> None:
        # A multimodal language model then computes logits at learned positions only.
        given: dict[str, Any] = {"return_logits": False} if isinstance(model, MultimodalLM) else {}
        if config.z_loss_weight:
            given["z_loss_weight"] = config.z_loss_weight
        if config.label_smoothing:
            given["label_smoothing"] = config.label_smoothing
        super().__init__(given)
        placeholders = model.placeholders if isinstance(model, MultimodalLM) else {}
        if config.learn is not None and (unknown := set(config.learn) - {"text", *placeholders}):
            raise ConfigError(
                f"objective: learn names {sorted(unknown)[0]!r}; the model has {', '.join(['text', *placeholders])}"
            )
        self.learn = config.learn
        self.placeholders = dict(placeholders)
        weights = None
        if config.picture_id_weight != 1.0:
            if not isinstance(model, DiscreteTokenLM):
                raise ConfigError("objective: picture_id_weight is for models whose vocabulary holds pictures")
            weights = torch.ones(model.backbone.config.vocab_size)
            weights[model.vocabulary_ids("image")] = config.picture_id_weight
        self.register_buffer("token_weights", weights, persistent=False)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        given = dict(batch)
        if self.token_weights is not None:
            given["token_weights"] = self.token_weights.to(batch["labels"].device)
        if self.learn is not None:
            given["labels"] = self.kept(batch["labels"])
        return super().forward(model, given)

    def kept(self, labels: Tensor) -> Tensor:
        """Labels [B, T] of the modalities that are learned, -100 elsewhere."""
        assert self.learn is not None
        media = torch.zeros_like(labels, dtype=torch.bool)
        wanted = torch.zeros_like(media)
        for modality, placeholder in self.placeholders.items():
            here = labels == placeholder
            media = media | here
            if modality in self.learn:
                wanted = wanted | here
        return labels.masked_fill(~(wanted | ~media if "text" in self.learn else wanted), IGNORE)


@runtime_checkable
class HasLogitScale(Protocol):
    """A model that learns the logarithm of the factor of its cosines, [1]; None: it has no such factor."""

    logit_scale: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """Pairs of two modalities in one joint space, both directions (CLIP, arXiv 2103.00020).

    max_logit_scale: largest factor of the cosines, where the model learns it.
    """

    name: ClassVar[str] = "contrastive"
    max_logit_scale: float | None = None

    def build(self, model: nn.Module) -> Loss:
        return ContrastiveLoss(self.max_logit_scale, model)

    def collator(self, learner: Learner) -> Collator:
        """Pictures with captions."""
        return PairCollator(processor=pair_processor(learner), longest=learner.max_length)


class ContrastiveLoss(ModelLosses):
    """See Contrastive."""

    def __init__(self, largest: float | None, model: nn.Module) -> None:
        super().__init__({"return_loss": True})
        if largest is not None and not (isinstance(model, HasLogitScale) and model.logit_scale is not None):
            raise ConfigError("objective: max_logit_scale is for models that learn the factor of their cosines")
        self.largest = largest

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        bound_scale(model, self.largest)
        return super().forward(model, batch)


def bound_scale(model: nn.Module, largest: float | None) -> None:
    """Keep the learned factor of the cosines between 1 and `largest`, as published runs do after a step."""
    if largest is not None and isinstance(model, HasLogitScale) and model.logit_scale is not None:
        keep_within(model.logit_scale, 0.0, math.log(largest))


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Classes: labels [N], or scores of the logits' shape for several right answers (binary cross-entropy)."""

    name: ClassVar[str] = "classification"

    def build(self, model: nn.Module) -> Loss:
        return ModelLosses()

    def collator(self, learner: Learner) -> Collator:
        """Pictures with labels, or with questions and answers, or their regions; sequences of features."""
        return classified(learner)


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A score, by absolute error; a model with several outputs takes `labels` as classes instead."""

    name: ClassVar[str] = "regression"

    def build(self, model: nn.Module) -> Loss:
        return ModelLosses()

    def collator(self, learner: Learner) -> Collator:
        """Sequences of features."""
        return LabelledSequences()


@dataclass(frozen=True, kw_only=True)
class BehaviourCloning:
    """The actions of demonstrations: `labels` [B, steps, 7], the gripper last.  gripper_weight: of its share."""

    name: ClassVar[str] = "behaviour_cloning"
    gripper_weight: float = 1.0

    def build(self, model: nn.Module) -> Loss:
        return ModelLosses({"gripper_weight": self.gripper_weight})


@dataclass(frozen=True, kw_only=True)
class MaskedImageModeling:
    """Image tokens of hidden patches (BEiT, arXiv 2106.08254): `bool_masked_pos` [N, P], `labels` [N, P] of a codec."""

    name: ClassVar[str] = "masked_image_modeling"

    def build(self, model: nn.Module) -> Loss:
        return MaskedImageModelingLoss(rename={"classification": "masked_patches"})

    def collator(self, learner: Learner) -> Collator:
        """Pictures, with their codes."""
        if isinstance(learner.module, ClassTokenPretraining):
            shape = learner.module.config
            return masked_pictures(learner, shape.tower.grid, shape.codes)
        if not isinstance(learner.module, EncoderClassifier):
            raise ConfigError(f"patches are hidden of an EncoderClassifier, not of a {type(learner.module).__name__}")
        encoder: Any = learner.module.encoders["image"]
        return masked_pictures(learner, encoder.config.grid)


class MaskedImageModelingLoss(ModelLosses):
    """See MaskedImageModeling; labels may be those of every patch."""

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        hidden = batch["bool_masked_pos"].flatten(1)
        return super().forward(model, {**batch, "labels": batch["labels"].masked_fill(~hidden, IGNORE)})


@dataclass(frozen=True, kw_only=True)
class SignalAlignment:
    """Next token, and signals near what a generator's text encoder says of the caption (GILL, NExT-GPT).

    Batch: `signal_targets`, by modality [k, Q, E], k as many as signals of it are written in the batch, row by row;
    `dummy_signals`: modalities whose projectors run for the sake of other processes.
    distance_weight: of the mean Euclidean distance of a query's vector.
    """

    name: ClassVar[str] = "signal_alignment"
    distance_weight: float = 1.0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, SignalTokenLM):
            raise ConfigError(f"objective: signals are written by a SignalTokenLM, not by a {type(model).__name__}")
        return SignalAlignmentLoss(self.distance_weight)

    def collator(self, learner: Learner) -> Collator:
        """Conversations, with what their signals should become."""
        if not isinstance(learner.module, SignalTokenLM):
            raise ConfigError(f"signals are written by a SignalTokenLM, not by a {type(learner.module).__name__}")
        return signalled(learner, learner.module)


class SignalAlignmentLoss(Loss):
    """See SignalAlignment."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, model: Any, batch: Batch) -> Losses:
        own = ("signal_targets", "dummy_signals")
        given = {name: value for name, value in batch.items() if name not in own}
        output = model(**given, return_logits=False)
        losses: Losses = dict(output.losses)
        found, targets = model.conditions_at(output.hidden, batch["input_ids"]), batch.get("signal_targets") or {}
        for name, wanted in targets.items():
            if name not in found or found[name].shape != wanted.shape:
                shape = list(found[name].shape) if name in found else "none"
                raise ConfigError(f"objective: signal_targets of {name} are {list(wanted.shape)}, the signals {shape}")
            distance = (found[name].float() - wanted.float()).square().sum(-1).sqrt().mean()
            losses[f"{name}_distance"] = self.weight * distance
        for name in batch.get("dummy_signals") or ():  # other processes run this projector, too
            states = output.hidden.new_zeros(1, len(model.signals[name]), output.hidden.shape[-1])
            losses[f"{name}_distance"] = 0.0 * model.projected(name, states).sum()
        return losses


@dataclass(frozen=True, kw_only=True)
class SumOfSources:
    """One objective on a batch of each data source, their losses weighted and summed (Flamingo, arXiv 2204.14198).

    Batch: source name -> its batch, any of those in `weights`.  Losses are named "source: loss".
    """

    name: ClassVar[str] = "sum_of_sources"
    objective: Objective
    weights: Mapping[str, float]

    def build(self, model: nn.Module) -> Loss:
        return SumOfSourcesLoss(self.objective.build(model), self.weights)

    def collator(self, learner: Learner) -> Collator:
        """A batch of each source, in the order of `weights`."""
        if not isinstance(self.objective, Collates):
            raise ConfigError(f"{self.objective.name} says not what data becomes in its batches")
        return EachSource(inner=self.objective.collator(learner), sources=tuple(self.weights))


class SumOfSourcesLoss(Loss):
    """See SumOfSources; raises ConfigError for a source without a weight."""

    def __init__(self, inner: Loss, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.inner = inner
        self.weights = dict(weights)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        if unknown := sorted(set(batch) - set(self.weights)):
            raise ConfigError(f"objective: a batch of {', '.join(unknown)}; expected batches of {list(self.weights)}")
        return {
            f"{source}: {name}": self.weights[source] * loss
            for source, each in batch.items()
            for name, loss in self.inner(model, each).items()
        }


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """The noise in latents of pictures, asked with words (DDPM, arXiv 2006.11239).

    Batch: `latents` [N, C, h, w]; `noise` of that shape and `timesteps` [N], drawn here where a batch has none.
    """

    name: ClassVar[str] = "denoising"

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, LatentDiffusion):
            raise ConfigError(f"objective: noise is seen by a LatentDiffusion, not by a {type(model).__name__}")
        return DenoisingLoss(model.schedule.trained)


class DenoisingLoss(Loss):
    """See Denoising.  trained: the steps of the schedule."""

    def __init__(self, trained: int) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        latents = batch.get("latents")
        if latents is None:
            raise ConfigError("objective: denoising needs latents of pictures in the batch, as the codec encodes them")
        drawn = {"noise": torch.randn_like(latents),
                 "timesteps": torch.randint(self.trained, (len(latents),), device=latents.device)}  # fmt: skip
        return dict(model(**{**drawn, **batch}).losses)
