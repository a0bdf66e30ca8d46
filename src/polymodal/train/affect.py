"""Objectives of methods that work on features: generated unimodal labels, several tasks, dialogues, emotions.

What an objective learns beside the model (centres, labels, features of the whole training set) lies in its buffers, so
that a checkpoint saves it and a run goes on exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.contextual_memory_fusion import ContextualMemoryFusion
from polymodal.models.score_head import SCORES, SHORT
from polymodal.models.self_mm import SelfMM
from polymodal.nn.losses import regression_loss
from polymodal.train.collator import Collator, Learner
from polymodal.train.context_batches import ContextBatches
from polymodal.train.feature_batches import feature_batches
from polymodal.train.objectives import Batch, Loss, Losses

TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class UnimodalLabels:
    """Scores of all modalities together by their labels, and of each alone by labels made here (Self-MM).

    Batch: inputs, labels [B], index [B]: each sample's place in the training set, from 0.  samples: how many it has.
    limit: largest made label.  In the first epoch every modality has the label of all together; from then on a label
    moves towards where the modality's vector lies between the centres of positive and negative samples.
    """

    name: ClassVar[str] = "unimodal_labels"
    samples: int
    limit: float = 3.0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, SelfMM):
            raise ConfigError(f"objective: unimodal labels are of a SelfMM, not of a {type(model).__name__}")
        return UnimodalLabelsLoss(self, model.config.heads)

    def collator(self, learner: Learner) -> Collator:
        return feature_batches(learner.module, labels=("M",), index=True)

    def of_samples(self, count: int) -> UnimodalLabels:
        return replace(self, samples=count)


class UnimodalLabelsLoss(Loss):
    """See UnimodalLabels.  labels [4, N] and vectors of all samples; seen: how many samples were learned so far."""

    labels: Tensor
    known: Tensor
    seen: Tensor

    def __init__(self, config: UnimodalLabels, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(SCORES)
        self.register_buffer("labels", torch.zeros(len(self.names), config.samples))
        self.register_buffer("known", torch.zeros(config.samples, dtype=torch.bool))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.long))
        for name in self.names:
            self.register_buffer(f"vectors_{name}", torch.zeros(config.samples, widths[name]))

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        output = model(**{name: value for name, value in batch.items() if name not in ("labels", "index")})
        target = batch["labels"].reshape(-1).float()
        if not self.training:
            return {"score": regression_loss(output.predictions["score"], target)}
        index = self.places(batch, target)
        labels = self.labels[:, index]
        weights = torch.tanh((labels - labels[0]).abs())
        weights[0] = 1.0
        losses = {}
        for row, name in enumerate(self.names):
            found = output.predictions[SCORES[name]].float()
            losses[SCORES[name]] = (weights[row] * (found - labels[row]).abs()).mean()
        self.learn(index, {name: vector.detach().float() for name, vector in output.embeddings.items()})
        return losses

    def places(self, batch: Batch, target: Tensor) -> Tensor:
        """Where the samples stand; those that are new get the label of all together in every row."""
        index = batch.get("index")
        if index is None:
            raise ConfigError("objective: unimodal labels need `index`, each sample's place in the training set")
        index = index.reshape(-1)
        if int(index.min()) < 0 or int(index.max()) >= self.config.samples:
            raise ConfigError(
                f"objective: index {int(index.max())} of {self.config.samples} samples; set objective.samples"
            )
        new = index[~self.known[index]]
        self.labels[:, new] = target[~self.known[index]]
        self.known[new] = True
        return index

    @torch.no_grad()
    def learn(self, index: Tensor, vectors: Mapping[str, Tensor]) -> None:
        """Move the labels of these samples, from the second epoch on, and keep their vectors."""
        epoch = int(self.seen) // self.config.samples + 1
        if epoch > 1:
            joint = self.side("fusion", 0, vectors["fusion"])
            for row, name in enumerate(self.names[1:], 1):
                own = self.side(name, row, vectors[name])
                if own is not None and joint is not None:
                    self.move(row, index, own, joint, epoch)
        for name in self.names:
            self.get_buffer(f"vectors_{name}")[index] = vectors[name]
        self.seen += len(index)

    def side(self, name: str, row: int, vectors: Tensor) -> Tensor | None:
        """How much nearer each vector is to the centre of positive samples; None where one side has no sample yet."""
        kept, labels = self.get_buffer(f"vectors_{name}"), self.labels[row]
        positive, negative = kept[labels > 0], kept[labels < 0]
        if not len(positive) or not len(negative):
            return None
        near, far = (vectors - positive.mean(0)).norm(dim=-1), (vectors - negative.mean(0)).norm(dim=-1)
        return (far - near) / (near + TINY)

    def move(self, row: int, index: Tensor, own: Tensor, joint: Tensor, epoch: int) -> None:
        """A mean over epochs, in which later ones count more."""
        target = self.labels[0, index]
        made = 0.5 * own / (joint + TINY) * target + 0.5 * (target + own - joint)
        made = made.clamp(-self.config.limit, self.config.limit)
        self.labels[row, index] = ((epoch - 1) * self.labels[row, index] + 2 * made) / (epoch + 1)


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Scores with labels of their own, by absolute error (MTFN of CH-SIMS).

    Batch: inputs, labels [B, n], a column for each of `weights`, which says how much each prediction of the model
    counts.
    """

    name: ClassVar[str] = "task_scores"
    weights: Mapping[str, float]

    def build(self, model: nn.Module) -> Loss:
        return TaskScoresLoss(self.weights)

    def collator(self, learner: Learner) -> Collator:
        short = {SCORES[name]: letter for name, letter in SHORT.items()}
        if unknown := [name for name in self.weights if name not in short]:
            raise ConfigError(f"no label of a file is called {unknown[0]!r}; expected some of {', '.join(short)}")
        return feature_batches(learner.module, labels=tuple(short[name] for name in self.weights))


class TaskScoresLoss(Loss):
    """See TaskScores."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        labels, found = batch["labels"], model(**{name: x for name, x in batch.items() if name != "labels"}).predictions
        labels = labels[:, None] if labels.dim() == 1 else labels
        if labels.dim() != 2 or labels.shape[1] != len(self.weights):
            expected = f"[B, {len(self.weights)}] ({', '.join(self.weights)})"
            raise ConfigError(f"objective: labels of several scores are {expected}, found {list(labels.shape)}")
        if missing := [name for name in self.weights if name not in found]:
            raise ConfigError(f"objective: the model has no score of {missing[0]}; it has {', '.join(found)}")
        return {
            name: weight * regression_loss(found[name], labels[:, column])
            for column, (name, weight) in enumerate(self.weights.items())
        }


@dataclass(frozen=True, kw_only=True)
class UtteranceClasses:
    """A class for each utterance of a dialogue, by cross-entropy (DialogueRNN).

    Batch: inputs, labels [B, T], -100 at padding.  weights: how much each class counts; empty: alike.  The mean is over
    the weights of the labels that there are.
    """

    name: ClassVar[str] = "utterance_classes"
    weights: tuple[float, ...] = ()

    def build(self, model: nn.Module) -> Loss:
        return UtteranceClassesLoss(self.weights)

    def collator(self, learner: Learner) -> Collator:
        return feature_batches(learner.module, labels=("utterances",))


class UtteranceClassesLoss(Loss):
    """See UtteranceClasses."""

    weights: Tensor | None

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights) if weights else None, persistent=False)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        labels, classes = batch["labels"], logits.shape[-1]
        if self.weights is not None and len(self.weights) != classes:
            raise ConfigError(f"objective: {len(self.weights)} weights of classes, the model has {classes}")
        if int(labels.max()) >= classes:
            raise ConfigError(f"objective: a label is {int(labels.max())}, the model has {classes} classes")
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), weight=self.weights)
        return {"classification": each}


@dataclass(frozen=True, kw_only=True)
class EmotionLabels:
    """Emotions that are there or not, each by itself, by binary cross-entropy (MESM; C-MFN: one, humour).

    Batch: inputs, labels [B, classes] of 0 and 1.  positive_weights: how much each emotion counts where it is present;
    empty: as where it is absent.
    """

    name: ClassVar[str] = "emotion_labels"
    positive_weights: tuple[float, ...] = ()

    def build(self, model: nn.Module) -> Loss:
        return EmotionLabelsLoss(self.positive_weights)

    def collator(self, learner: Learner) -> Collator:
        """Features of punchlines; another model brings a collator of its own."""
        if not isinstance(learner.module, ContextualMemoryFusion):
            raise ConfigError("this model's folder holds no tokenizer, without which it cannot read sentences")
        return ContextBatches(config=learner.module.config)


class EmotionLabelsLoss(Loss):
    """See EmotionLabels."""

    weights: Tensor | None

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights) if weights else None, persistent=False)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        labels = batch["labels"]
        if labels.shape != logits.shape:
            raise ConfigError(f"objective: labels must be {list(logits.shape)}, found {list(labels.shape)}")
        if self.weights is not None and len(self.weights) != logits.shape[1]:
            raise ConfigError(f"objective: {len(self.weights)} weights of emotions, the model has {logits.shape[1]}")
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.float(), labels.float(), pos_weight=self.weights
        )
        return {"emotions": loss}
