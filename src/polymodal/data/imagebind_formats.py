"""How PandaGPT and NExT-GPT write a conversation about pictures, videos and sounds.

PandaGPT    <s>### Human: <Img> X </Img> question\\n### Assistant: answer\\n###Human: question\\n### Assistant:
            one placeholder, right behind the first words, for the sum of all media (arXiv 2305.16355)
NExT-GPT    <s>### Human: <Img>P</Img> <s> question\\n### Assistant: answer\\n### Human: question\\n### Assistant:
            a placeholder for each item; media in an answer are written as signal tokens (arXiv 2309.05519)

Traps: `<Img>` is plain text for PandaGPT and a token of its own for NExT-GPT; every piece is tokenised alone; NExT-GPT
writes the begin token again before the words behind an item, and eats the one space that stood before the item; the
space behind "Assistant:" is part of a finished question and not of one that waits for its answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Encoded, MediaSpan, Memo, Processor, write
from polymodal.data.row_builder import RowBuilder
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words
from polymodal.errors import PromptError

START = "### Human: <Img>"
FIRST = "</Img> {text}\n### Assistant:"
LATER = "Human: {text}\n### Assistant:"
ANSWER = "{text}\n###"
"""The pieces of PandaGPT's conversation, each tokenised alone; the begin token stands before START."""
SHARED = Special(name="all media")
"""Where the sum goes; SharedPlaceholderProcessor writes an id there that is no token of the vocabulary."""
END = "\n###"


@dataclass(frozen=True, kw_only=True)
class PandaGPTFormat:
    """PandaGPT's conversation: pieces in order, all media before them.  begin: the begin token."""

    begin: str

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation that does not go question, answer, question, ..."""
        alternating(messages, ask)
        pieces: list[Segment] = [Slot(media=media) for message in messages for media in message.media]
        pieces += [Special(name=self.begin), Words(text=START), SHARED]
        for index, message in enumerate(messages):
            if message.role == "assistant":
                pieces.append(Words(text=ANSWER.format(text=message.text), loss_mask=True))
            else:
                pieces.append(Words(text=(LATER if index else FIRST).format(text=message.text)))
        return tokenised_apart(pieces)


class SharedPlaceholderProcessor(Processor):
    """A Processor whose media share one placeholder; placeholder_id: the id written there."""

    def __init__(self, *, placeholder_id: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.placeholders = dict.fromkeys(self.placeholders, placeholder_id)
        self.placeholder_id = placeholder_id

    def encode_segments(self, segments: Sequence[Segment], *, memo: Memo | None = None) -> Encoded:
        """Raises PromptError for two items of one kind: the published model adds up one of each."""
        items = [self.prepare(segment.media, memo) for segment in segments if isinstance(segment, Slot)]
        if many := [name for name, count in Counter(item.modality for item in items).items() if count > 1]:
            raise PromptError(f"messages: this model takes one item of each kind in a conversation; found more {many}")
        builder = RowBuilder(self.tokenizer)
        spans: list[MediaSpan] = []
        for segment in segments:
            if segment is SHARED:
                builder.finish()
                first = len(builder.input_ids)
                builder.ids([self.placeholder_id])
                spans = [
                    MediaSpan(item=replace(item, tokens=int(index == 0)), first=first, start=first, end=first + 1)
                    for index, item in enumerate(items)
                ]
            elif not isinstance(segment, Slot):
                write(builder, segment)
        builder.finish()
        return builder.row(spans)


@dataclass(frozen=True, kw_only=True)
class NExTGPTFormat:
    """NExT-GPT's conversation.  begin: the begin token.  signals: modality -> tokens that ask for it, in order."""

    begin: str
    signals: Mapping[str, tuple[str, ...]]

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation that does not go question, answer, question, ..."""
        alternating(messages, ask)
        pieces: list[Segment] = [Special(name=self.begin)]
        for index, message in enumerate(messages):
            if message.role == "assistant":
                pieces += self._answer(message)
            else:
                opening, waits = " Human: " if index else "### Human: ", index == len(messages) - 1
                pieces += self._question(message, opening, "" if waits else " ")
        return tokenised_apart(pieces)

    def _question(self, message: Message, words: str, behind: str) -> list[Segment]:
        """words: what opens it; behind: what stands behind "Assistant:"."""
        pieces: list[Segment] = []
        follows = False  # an item has been written
        for part in message.parts:
            if isinstance(part, Text):
                words += f" {part.text}" if follows and not words else part.text
                continue
            pieces += self._words(words.removesuffix(" "), follows)
            pieces.append(Slot(media=part))
            words, follows = "", True
        return [*pieces, *self._words(f"{words}\n### Assistant:{behind}", follows)]

    def _words(self, text: str, follows: bool) -> list[Segment]:
        if not text:
            return []
        return [Special(name=self.begin), Words(text=text)] if follows else [Words(text=text)]

    def _answer(self, message: Message) -> list[Segment]:
        pieces: list[Segment] = []
        for part in message.parts:
            if isinstance(part, Text):
                pieces.append(Words(text=part.text, loss_mask=True))
            else:
                pieces += [Special(name=name, loss_mask=True) for name in self.signals[part.modality]]
        return [*pieces, Words(text=END, loss_mask=True)]


def tokenised_apart(pieces: Sequence[Segment]) -> tuple[Segment, ...]:
    """The pieces, each text of which is a tokenizer call of its own."""
    return tuple(each for piece in pieces for each in ((TEXT_START, piece) if isinstance(piece, Words) else (piece,)))


def alternating(messages: Sequence[Message], ask: bool) -> None:
    """Raises PromptError unless questions and answers take turns, and the last is a question where one is asked."""
    roles = [message.role for message in messages]
    if not roles or roles != [("user", "assistant")[index % 2] for index in range(len(roles))]:
        raise PromptError(f"messages: expected user, assistant, user, ... in turn; found {', '.join(roles) or 'none'}")
    if ask and roles[-1] != "user":
        raise PromptError("messages: the last one must be the user's, or there is nothing to answer")
