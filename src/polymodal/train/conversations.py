"""Conversations and texts through a model's processor -> rows of ids, packed or padded, with their media.

A conversation that is too long is cut at its end, but never inside media: it then counts as damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.dummy_items import dummy_items
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.packing import pack
from polymodal.data.processor import Encoded, Processor
from polymodal.data.template import Slot, Special, Words, Written
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, PromptError
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.nn.losses import IGNORE, shifted
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind

EXPECTED = "conversations, captions or texts"


@dataclass(frozen=True, kw_only=True)
class ConversationCollator(Collator):
    """max_length: of a row, in tokens; None: of the model.  packing: several conversations a row.  dummies: blank items
    of each modality, for processes that have none."""

    expects: ClassVar[str] = EXPECTED
    has_lengths: ClassVar[bool] = True

    processor: Processor
    max_length: int | None = None
    packing: bool = False
    dummies: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.packing and self.max_length is None:
            raise ConfigError("packing needs budget.max_length, the length of a packed row in tokens")

    def item(self, sample: Sample) -> Encoded:
        """The ids of one sample."""
        row = self.processor.fit(self.row(sample), self.max_length, truncate=True)
        if not any(row.loss_mask[1:]):
            raise PromptError(f"has no token to learn within {self.max_length} tokens")
        return row

    def row(self, sample: Sample) -> Encoded:
        """The same, of any length."""
        messages = answered(sample)
        if messages and messages[-1].role == "assistant":
            return self.processor.encode(messages)
        if sample.text and not sample.arrays:
            return self.processor.encode_segments(text_segments(self.processor.tokenizer, sample.text))
        raise WrongKind("has no answer, caption or text to learn from")

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


@dataclass(frozen=True, kw_only=True)
class PicturesInAnswers(ConversationCollator):
    """Of a model whose vocabulary holds pictures: those in answers are learned as words are."""

    def row(self, sample: Sample) -> Encoded:
        """As for conversations."""
        row = super().row(sample)
        roles = [message.role for message in sample.messages for _ in message.media]
        return with_loss_at(row, [number for number, role in enumerate(roles) if role == "assistant"])


@dataclass(frozen=True, kw_only=True)
class WrittenPictures(ConversationCollator):
    """Pictures that a caption asks for, in the words around a picture that such models write: begin, caption, picture,
    end.  A caption may stand before its picture in the data or behind it."""

    expects: ClassVar[str] = "pictures with a caption each"

    begin: str
    end: str

    def row(self, sample: Sample) -> Encoded:
        """The caption is not learned."""
        media = [each for message in sample.messages for each in message.media]
        text = " ".join(message.text.strip() for message in sample.messages if message.text.strip())
        if len(sample.messages) != 2 or len(media) != 1 or not text:
            raise WrongKind("is no picture with a caption")
        end = Special(name=self.end, loss_mask=True)
        row = self.processor.encode_segments([Special(name=self.begin), Words(text=text), Slot(media=media[0]), end])
        return with_loss_at(row, [0])


def answered(sample: Sample) -> tuple[Message, ...]:
    """The conversation; of a question that several people answered, with the answer that most of them gave."""
    messages, told = sample.messages, sample.labels
    if not messages or messages[-1].role != "user" or not isinstance(told, list | Mapping):
        return messages
    counts = dict(told) if isinstance(told, Mapping) else Counter(each for each in told if isinstance(each, str))
    if not counts or not all(isinstance(each, int | float) for each in counts.values()):
        return messages
    return (*messages, Message(role="assistant", parts=(Text(str(max(counts, key=lambda each: counts[each]))),)))


def with_loss_at(row: Encoded, items: Sequence[int]) -> Encoded:
    """The row with everything of these media learned."""
    mask = list(row.loss_mask)
    for span in (row.media_spans[number] for number in items):
        mask[span.start : span.end] = [True] * (span.end - span.start)
    return replace(row, loss_mask=mask)


def conversations(learner: Learner) -> ConversationCollator:
    """Of a model whose processor reads conversations.  Raises ConfigError for another."""
    processor = learner.processor
    if not isinstance(processor, Processor):
        raise ConfigError("this model does not learn from conversations: it has no processor that reads them")
    dummies = dummy_items(processor) if learner.ranks > 1 else {}
    length = learner.max_length or processor.max_length
    made = PicturesInAnswers if isinstance(learner.module, DiscreteTokenLM) else ConversationCollator
    return made(processor=processor, max_length=length, packing=learner.packing, dummies=dummies)


def text_segments(tokenizer: Tokenizer, text: str) -> list[Written]:
    """A text of which every token is learned: what the tokenizer puts before it, the text, the end token."""
    before, _ = tokenizer.special_tokens_around
    segments: list[Written] = [*(Special(name=name) for name in before), Words(text=text, loss_mask=True)]
    if tokenizer.eos_id is not None:
        segments.append(Special(name=tokenizer.token(tokenizer.eos_id), loss_mask=True))
    return segments
