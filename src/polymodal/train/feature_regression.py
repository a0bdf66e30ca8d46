"""Words, and vectors that stand among them: CoDi-2's objective (arXiv 2311.18775).

    next tokens at the labels; at places of vectors that an answer holds the cosine with what the state before foretells

    {"question": "Another one?", "answer": "Here: <image>", "image": "a.jpg"}

Traps: vectors have no label of a token, they are named by `wanted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Text
from polymodal.data.messages import Message, Part
from polymodal.data.processor import Encoded
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.models.feature_regression_lm import FeatureRegressionLM
from polymodal.nn.losses import IGNORE, shifted
from polymodal.train.collator import Collator, Learner, MicroBatch
from polymodal.train.conversations import ConversationCollator, conversations, with_loss_at
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

    def collator(self, learner: Learner) -> Collator:
        """Conversations whose answers may show media."""
        if not isinstance(learner.module, FeatureRegressionLM):
            raise ConfigError("this checkpoint foretells no vectors, which is what this stage trains")
        talks = conversations(learner)
        marks = {name: mark_of(talks.processor.tokenizer, ids) for name, ids in learner.module.signals.items()}
        given = {each.name: getattr(talks, each.name) for each in fields(talks)}
        return VectorsInAnswers(**given, marks=marks)


@dataclass(frozen=True, kw_only=True)
class VectorsInAnswers(ConversationCollator):
    """marks: by modality what a model writes before its vectors; put before media of answers where it is not there."""

    expects: ClassVar[str] = "conversations, whose answers may show pictures"

    marks: Mapping[str, str]

    def row(self, sample: Sample) -> Encoded:
        """Ids of the vectors in answers are learned ones; see `batch`."""
        talk = replace(sample, messages=tuple(map(self.marked, sample.messages)))
        roles = [message.role for message in talk.messages for _ in message.media]
        return with_loss_at(super().row(talk), [n for n, role in enumerate(roles) if role == "assistant"])

    def marked(self, message: Message) -> Message:
        """An answer with a mark before each item that is drawn."""
        parts: list[Part] = []
        for part in message.parts:
            mark = None if isinstance(part, Text) else self.marks.get(part.modality)
            before = parts[-1].text if parts and isinstance(parts[-1], Text) else ""
            if message.role == "assistant" and mark is not None and not before.rstrip().endswith(mark):
                parts.append(Text(mark))
            parts.append(part)
        return replace(message, parts=tuple(parts))

    def batch(self, items: Sequence[Encoded], generator: torch.Generator | None = None) -> MicroBatch:
        """And `wanted`: vectors have no label, they are learned by what foretells them."""
        made = super().batch(items, generator)
        ids, labels = made.batch["input_ids"], made.batch["labels"]
        placed = torch.isin(ids, torch.tensor(list(self.processor.placeholders.values())))
        wanted = placed & (labels != IGNORE)
        wanted[:, 0] = False
        labels = labels.masked_fill(wanted, IGNORE)
        return replace(
            made,
            batch={**made.batch, "labels": labels, "wanted": wanted},
            targets=int((shifted(labels) != IGNORE).sum()),
            counts={"features": int(wanted.sum())},
        )


def mark_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What ids say.  Raises ConfigError where the tokenizer does not write them again."""
    text = tokenizer.decode(list(ids)).strip()
    if tokenizer.encode(text) != list(ids):
        raise ConfigError(f"signal_ids: the tokenizer reads {list(ids)} as {text!r} and writes that otherwise")
    return text


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
        if wanted is not None:
            # Of none the sum is 0, and its gradient too: processes that share a step all run the projector.
            found, targets = model.foretold(output, given, wanted)
            cosines = F.cosine_similarity(found.float(), targets.float(), dim=-1)
            losses["features"] = -self.weight * cosines.sum() / max(1, len(cosines))
        return losses
