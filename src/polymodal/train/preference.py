"""Better and worse answers: direct preference optimisation (DPO, arXiv 2305.18290), without a model of rewards.

    chosen, rejected -> log-probabilities of the answers, by the model and by the model as it began, which is frozen
    margin = (chosen - rejected of the model) - (chosen - rejected of the frozen one)
    loss = -log sigmoid(beta * margin)

The frozen model shares every parameter that does not learn; a checkpoint does not hold it, since a run goes on from the
weights it began with.
Traps: a log-probability is a sum over an answer's tokens, not a mean; answers earlier in the conversation are in both
and cancel.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.data.datasets.sample import Sample
from polymodal.errors import ConfigError
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.losses import IGNORE, shifted, token_loss
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind
from polymodal.train.conversations import conversations
from polymodal.train.objectives import Batch, Loss, Losses


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Batch: `chosen` and `rejected`, each a batch with labels at the answer.

    beta: how far the model may go from where it began.  supervised: weight of the next-token loss of the better answer.
    """

    name: ClassVar[str] = "preference"
    copies_model: ClassVar[bool] = True
    beta: float = 0.1
    supervised: float = 0.0

    def build(self, model: nn.Module) -> Loss:
        if not isinstance(model, MultimodalLM) or model.is_encoder_decoder:
            raise ConfigError(f"objective: preferences are learned by a decoder, not by a {type(model).__name__}")
        return PreferenceLoss(self, model)

    def collator(self, learner: Learner) -> Collator:
        """Conversations with two answers."""
        return PreferenceCollator(inner=conversations(replace(learner, packing=False)))


class PreferenceLoss(Loss):
    """See Preference."""

    def __init__(self, config: Preference, model: MultimodalLM) -> None:
        super().__init__()
        self.config = config
        shared = {id(each): each for each in model.parameters() if not each.requires_grad}
        frozen = copy.deepcopy(model, shared).eval()
        for parameter in frozen.parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(False)
        self._frozen = (frozen,)  # no child: neither saved nor put in training mode

    def forward(self, model: Any, batch: Batch) -> Losses:
        better, worse = answer(model, batch["chosen"]), answer(model, batch["rejected"])
        with torch.no_grad():
            start = self._frozen[0]
            before = answer(start, batch["chosen"])[0] - answer(start, batch["rejected"])[0]
        losses = {"preference": preference_loss(better[0] - worse[0], before, self.config.beta)}
        if self.config.supervised:
            losses["supervised"] = self.config.supervised * better[1]
        return losses


def preference_loss(learned: Tensor, before: Tensor, beta: float) -> Tensor:
    """Mean loss of pairs [N]: by how much the better answer is the likelier one, now and before."""
    return -F.logsigmoid(beta * (learned - before)).mean()


def answer(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's labels [N], and the mean loss of a token."""
    given = dict(batch)
    if isinstance(model, DiscreteTokenLM):
        given = model.with_token_ids(given)
    labels = shifted(given.pop("labels"))
    here = labels != IGNORE
    hidden = model(**given, return_logits=False).hidden
    logits = model.backbone.head(hidden[here])
    each = -F.cross_entropy(logits.float(), labels[here], reduction="none")
    rows = here.nonzero()[:, 0]
    return each.new_zeros(len(labels)).index_add(0, rows, each), token_loss(logits, labels[here])


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator(Collator):
    """inner: of conversations with one answer."""

    expects: ClassVar[str] = "questions with a chosen and a rejected answer each"

    inner: Collator

    def item(self, sample: Sample) -> tuple[Any, Any]:
        """Both conversations."""
        if not sample.rejected:
            raise WrongKind("has no rejected answer")
        worse = replace(sample, messages=sample.rejected, rejected=())
        return self.inner.item(replace(sample, rejected=())), self.inner.item(worse)

    def arranged(self, items: list[Any]) -> list[Any]:
        """Rows of a length beside each other."""
        return sorted(items, key=lambda pair: max(map(len, pair)))

    def batch(self, items: Sequence[tuple[Any, Any]], generator: torch.Generator) -> MicroBatch:
        """A batch of the better answers and one of the worse; every pair counts the same."""
        better, worse = (self.inner.batch(each, generator) for each in zip(*items, strict=True))
        return MicroBatch(
            batch={"chosen": better.batch, "rejected": worse.batch},
            targets=len(items),
            tokens=better.tokens + worse.tokens,
        )

    def blank(self) -> MicroBatch | None:
        """Rows of which nothing is learned."""
        row = self.inner.blank()
        return row and MicroBatch(batch={"chosen": row.batch, "rejected": row.batch}, targets=0, tokens=row.tokens)
