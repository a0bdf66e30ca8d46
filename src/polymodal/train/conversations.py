"""Conversations and texts through a model's processor -> rows of ids, packed or padded, with their media.

A conversation that is too long is cut at its end, but never inside media: it then counts as damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.dummy_items import dummy_items
from polymodal.data.packing import pack
from polymodal.data.processor import Encoded, Processor
from polymodal.data.template import Special, Words, Written
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.losses import IGNORE, shifted
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind

EXPECTED = "conversations, captions or texts"


@dataclass(frozen=True, kw_only=True)
class ConversationCollator(Collator):
    """max_length: of a row, in tokens; None: of the model.  packing: several conversations a row.  dummies: blank items
    of each modality, for processes that have none."""

    expects: ClassVar[str] = EXPECTED

    processor: Processor
    max_length: int | None = None
    packing: bool = False
    dummies: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.packing and self.max_length is None:
            raise ConfigError("packing needs budget.max_length, the length of a packed row in tokens")

    def item(self, sample: Sample) -> Encoded:
        """The ids of one sample."""
        if sample.messages and sample.messages[-1].role == "assistant":
            row = self.processor.encode(sample.messages)
        elif sample.text and not sample.arrays:
            row = self.processor.encode_segments(text_segments(self.processor.tokenizer, sample.text))
        else:
            raise WrongKind("has no answer, caption or text to learn from")
        row = self.processor.fit(row, self.max_length, truncate=True)
        if not any(row.loss_mask[1:]):
            raise PromptError(f"has no token to learn within {self.max_length} tokens")
        return row

    def arranged(self, items: list[Encoded]) -> list[Encoded]:
        """Packed, or rows of a length beside each other: less padding."""
        if self.packing and self.max_length is not None:
            return pack(items, self.max_length)
        return sorted(items, key=len)

    def batch(self, items: Sequence[Encoded], generator: torch.Generator | None = None) -> MicroBatch:
        """Rows as tensors."""
        batch = self.processor.collate(items, padding="right", dummies=self.dummies)
        labels: Tensor = batch["labels"]
        return MicroBatch(batch=batch, targets=int((shifted(labels) != IGNORE).sum()), tokens=sum(map(len, items)))

    def blank(self) -> MicroBatch:
        """A row of which nothing is learned."""
        return self.batch([self.processor.encode_segments([Words(text="-")])])


def conversations(learner: Learner) -> ConversationCollator:
    """Of a model whose processor reads conversations.  Raises ConfigError for another."""
    processor = learner.processor
    if not isinstance(processor, Processor):
        raise ConfigError("this model does not learn from conversations: it has no processor that reads them")
    dummies = dummy_items(processor) if learner.ranks > 1 else {}
    length = learner.max_length or processor.max_length
    return ConversationCollator(processor=processor, max_length=length, packing=learner.packing, dummies=dummies)


def text_segments(tokenizer: Tokenizer, text: str) -> list[Written]:
    """A text of which every token is learned: what the tokenizer puts before it, the text, the end token."""
    before, _ = tokenizer.special_tokens_around
    segments: list[Written] = [*(Special(name=name) for name in before), Words(text=text, loss_mask=True)]
    if tokenizer.eos_id is not None:
        segments.append(Special(name=tokenizer.token(tokenizer.eos_id), loss_mask=True))
    return segments
