"""Emu's prompts: texts and pictures as they come, or Emu-I's questions.

    {texts and pictures in order}                                  the pretrained model continues
    {system} [USER]: {texts and pictures} [ASSISTANT]: {answer}    Emu-I

Trap: the published tokenizer strips spaces beside its special tokens, and tokenises what stands between two of them by
itself; its system message names two of them in its words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.data.imagebind_formats import alternating
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words
from polymodal.errors import PromptError

BEGIN, END, IMAGE = "[IMG]", "[/IMG]", "<image>"
NEW = ("[PAD]", BEGIN, END, IMAGE, "[USER]", "[ASSISTANT]")  # in the order in which they were added
SEES = ("You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I "
        "provide it to you. Please answer my questions based on the given image.")  # fmt: skip
_MARKS = re.compile(r"(\[IMG\]|\[/IMG\])")


def words(text: str, loss_mask: bool = False) -> list[Segment]:
    """A text between special tokens, without the spaces beside them."""
    return [Words(text=text.strip(), loss_mask=loss_mask)] if text.strip() else []


@dataclass(frozen=True, kw_only=True)
class PlainFormat:
    """Texts and pictures in order, behind the begin token; a finished conversation ends in the end token."""

    def written(self, parts: Sequence[Any]) -> tuple[Segment, ...]:
        """Parts of a message (texts may be strings)."""
        made: list[Segment] = [Special(name="<s>"), TEXT_START]
        for part in parts:
            text = part if isinstance(part, str) else part.text if isinstance(part, Text) else None
            made += [Slot(media=part)] if text is None else words(text)
        return tuple(made)

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation of nothing."""
        if not any(message.parts for message in messages):
            raise PromptError("messages: expected a text or a picture, found none")
        made: list[Segment] = [Special(name="<s>"), TEXT_START]
        for message in messages:
            learned = message.role == "assistant"
            for part in message.parts:
                made += words(part.text, learned) if isinstance(part, Text) else [Slot(media=part)]
        return (*made, *(() if ask else (Special(name="</s>", loss_mask=True),)))


@dataclass(frozen=True, kw_only=True)
class InstructFormat:
    """Emu-I.  Without a system message, that of the published demo stands before questions about pictures."""

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation that does not go question, answer, question, ..."""
        given = messages[0].text if messages and messages[0].role == "system" else None
        turns = messages if given is None else messages[1:]
        alternating(turns, ask)
        shown = any(turn.media for turn in turns)
        made: list[Segment] = [Special(name="<s>"), TEXT_START]
        for piece in _MARKS.split(given if given is not None else SEES if shown else ""):
            made += [Special(name=piece)] if piece in (BEGIN, END) else words(piece)
        for turn in turns:
            if turn.role == "assistant":
                made += [*words(turn.text, True), Special(name="</s>", loss_mask=True)]
                continue
            made += [Special(name="[USER]")]
            opening = ":"  # joined with what follows it
            for part in turn.parts:
                if isinstance(part, Text):
                    made += words(f"{opening} {part.text}" if opening else part.text)
                else:
                    made += [*words(opening), Slot(media=part)]
                opening = ""
            made += [Special(name="[ASSISTANT]"), Words(text=":")]
        return tuple(made)
