"""Conversations whose answers ask for media -> rows of ids, and what the signals should become.

    {"question": "a cat", "answer": "<image>", "image": "a.jpg", "signal_targets": {"image": "vector.npy"}}

What a generator's text encoder says of a caption is computed beforehand, once, by the library that has it (for Stable
Diffusion: `text_encoder(...)[0]` [Q, E]); several signals of one sample are [k, Q, E], in the order of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.processor import Encoded
from polymodal.errors import PromptError
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.train.collator import Collator, Learner, MicroBatch
from polymodal.train.conversations import ConversationCollator, conversations

PREFIX = "signal_targets."
Signalled = tuple[Encoded, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class SignalCollator(Collator):
    """talks: of the conversations.  signals: modality -> the ids that ask for it.  shared: among processes, each of
    which then runs every projector, on nothing where its answers ask for nothing (`dummy_signals`)."""

    expects: ClassVar[str] = "conversations, with signal_targets for the media that their answers ask for"

    talks: ConversationCollator
    signals: dict[str, tuple[int, ...]]
    shared: bool = False

    def item(self, sample: Sample) -> Signalled:
        """The row, and the vectors by modality [k, Q, E].  Raises PromptError where they are not as many as signals."""
        row = self.talks.item(sample)
        found: dict[str, Tensor] = {}
        for name, ids in self.signals.items():
            written = occurrences(row.input_ids, ids)
            given = sample.arrays.get(PREFIX + name)
            if given is None and not written:
                continue
            vectors = torch.zeros(0) if given is None else torch.as_tensor(given.values).float()
            vectors = vectors[None] if vectors.dim() == 2 else vectors
            if len(vectors) != written:
                raise PromptError(
                    f"its answers ask for {written} {name} items, and it has signal_targets of {len(vectors)}"
                )
            found[name] = vectors
        return row, found

    def arranged(self, items: list[Signalled]) -> list[Signalled]:
        """Rows of a length beside each other."""
        return sorted(items, key=lambda item: len(item[0]))

    def batch(self, items: Sequence[Signalled], generator: torch.Generator) -> MicroBatch:
        """And `signal_targets` by modality, row by row."""
        made = self.talks.batch([row for row, _ in items])
        targets: dict[str, Any] = {}
        for name in self.signals:
            vectors = [found[name] for _, found in items if name in found]
            if vectors:
                targets[name] = torch.cat(vectors)
        batch = {**made.batch, "signal_targets": targets} if targets else made.batch
        counts = {f"{name}_distance": len(vectors) for name, vectors in targets.items()}
        found = MicroBatch(batch=batch, targets=made.targets, tokens=made.tokens, counts=counts)
        return self.with_dummies(found) if self.shared else found

    def with_dummies(self, made: MicroBatch) -> MicroBatch:
        """The batch, with the names of the signals that are not in it."""
        missing = tuple(name for name in self.signals if name not in made.batch.get("signal_targets", {}))
        return replace(made, batch={**made.batch, "dummy_signals": missing}) if missing else made

    def blank(self) -> MicroBatch:
        """As of conversations."""
        return self.with_dummies(self.talks.blank())


def occurrences(ids: Sequence[int], signal: Sequence[int]) -> int:
    """How often a signal stands whole in a row."""
    wanted = list(signal)
    return sum(list(ids[at : at + len(wanted)]) == wanted for at in range(len(ids) - len(wanted) + 1))


def signalled(learner: Learner, model: SignalTokenLM) -> SignalCollator:
    """For a model that writes signals; rows are not packed."""
    given = {each.name: getattr(learner, each.name) for each in fields(learner)} | {"packing": False}
    return SignalCollator(talks=conversations(Learner(**given)), signals=dict(model.signals),
                          shared=learner.ranks > 1)  # fmt: skip
