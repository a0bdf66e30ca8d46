"""Conversations as the tree that VisCPM reads, every key and text a segment: <s>...</s>.

    <s><root></s>  <s>image</s><s>64 features</s>  <s>context</s><s>User: ...\\nAI: ...\\n</s>
    <s>question</s><s>...</s>  <s><ans></s><s>answer</s>

Earlier rounds are the text of `context`, which is there, if empty, from the first.  A wish for a picture is
<s><root></s> <s>caption</s><s>...</s> <s>objects</s><s></s>.
Words that the vocabulary lacks are numbered in the order in which they come first; the first one is number 0.
Traps: the features stand where as many <unk> do; a round of the future never stands in `context`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from polymodal.checkpoints.chatglm_picture import only_picture
from polymodal.data.encoded import Encoded
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Memo, Processor
from polymodal.data.template import Segment, Special, Template, Turn, Words, Written
from polymodal.data.word_files import CPM_BEE_RUN
from polymodal.errors import PromptError

BEGIN, END, ROOT, ANSWER, UNKNOWN = "<s>", "</s>", "<root>", "<ans>", "<unk>"
_BEGIN, _END = Special(name=BEGIN), Special(name=END)


def segment(text: str) -> tuple[Written, ...]:
    """One segment of plain words."""
    return (_BEGIN, Words(text=text), _END)


def leaf(key: str) -> Turn:
    """How the text below a key is written."""
    return Turn(before=(*segment(key), _BEGIN), after=(_END,))


IMAGE_BEFORE, IMAGE_AFTER = (*segment("image"), _BEGIN), (_END,)
ASK = (_BEGIN, Special(name=ANSWER), _END, _BEGIN)
TEMPLATE = Template(
    begin=(_BEGIN, Special(name=ROOT), _END),
    turns={
        "picture": Turn(),
        "context": leaf("context"),
        "user": replace(leaf("question"), after=(_END, *ASK)),
        "assistant": Turn(after=(Special(name=END, loss_mask=True),), loss_mask=True),
        "caption": leaf("caption"),
        "objects": leaf("objects"),
    },
)


def one_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The picture, what was said before, the question and its answer, where the conversation ends in one.

    Raises PromptError for a second picture, other roles, and rounds that are not a question and its answer.
    """
    for index, message in enumerate(messages):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            raise PromptError(f"messages: expected {expected} as message {index + 1}, found {message.role}")
    media = only_picture(messages)
    answered = messages[-1].role == "assistant"
    asked = len(messages) - (2 if answered else 1)
    said = "".join(f"{'AI' if each.role == 'assistant' else 'User'}: {each.text}\n" for each in messages[:asked])
    picture = (Message(role="picture", parts=tuple(media)),) if media else ()
    last = tuple(replace(each, parts=(Text(each.text),)) for each in messages[asked:])
    return (*picture, Message(role="context", parts=(Text(said),)), *last)


def wish(text: str) -> tuple[Message, ...]:
    """A wish for a picture as a tree."""
    return tuple(Message(role=role, parts=(Text(said),)) for role, said in (("caption", text), ("objects", "")))


class TreeProcessor(Processor):
    """A Processor whose unknown words have numbers: the id of word k is that of <unk> + k * size, the model's words."""

    def __init__(self, *, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.size = size

    def encode_segments(self, segments: Sequence[Segment], *, memo: Memo | None = None) -> Encoded:
        """As `Processor.encode_segments`.  Numbered words of an answer have no logits, and so no loss."""
        row = super().encode_segments(segments, memo=memo)
        words = self._unknown_words(segments)
        unknown = self.tokenizer.special(UNKNOWN)
        numbers: dict[str, int] = {}
        ids, losses = list(row.input_ids), list(row.loss_mask)
        for index, kind in enumerate(row.token_types):
            if ids[index] == unknown and not kind:
                number = numbers.setdefault(next(words), len(numbers))
                ids[index] += number * self.size
                losses[index] = losses[index] and not number
        return replace(row, input_ids=ids, loss_mask=losses)

    def _unknown_words(self, segments: Sequence[Segment]) -> Iterator[str]:
        """Raises PromptError for a run of signs that the tokenizer took for one word since it is too long."""
        unknown = self.tokenizer.special(UNKNOWN)
        for each in segments:
            if not isinstance(each, Words):
                continue
            for index, (begin, end) in zip(*self.tokenizer.encode_spans(each.text), strict=True):
                if index == unknown and end - begin > CPM_BEE_RUN:
                    raise PromptError(f"messages: {end - begin} signs without a space or a sign that stands alone; at "
                                      f"most {CPM_BEE_RUN}")  # fmt: skip
                if index == unknown:
                    yield each.text[begin:end]


def with_image_mask(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with `image_mask` [B, T], which tells features from unknown words."""
    return {**batch, "image_mask": batch["token_types"] == 1}
