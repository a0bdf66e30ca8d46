"""PaLM-E's multi-modal sentences, as its appendix B prints them.

    Given <img>. Q: How to grasp the green object? A: First grasp the orange object and ..., then ...[eod]
    Given <img> and <img>. Q: ...                           Q: What happened between <img> and <img>? A: ...
    Obj 1 is <obj 1>. Obj 2 is <obj 2>. Q: ...              (states of objects, slots of a scene)
    Human: <instruction> Robot: 1. ..., 2. .... I see <img>. 3. ...
    Task: Sort colors into corners. Step 1. ...

What a message shows before its words is introduced so; words that begin with "Q:", "Task:" or "Human:" stay as they
are, others are a question.  Not published: what stands between the questions of a talk (a space here); `[eod]` ends a
text, as in PaLM's training.
Traps: "A:" is learned too; a robot's picture stands behind the steps that were taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polymodal.data.media import Array, Media, Text
from polymodal.data.messages import Message
from polymodal.data.template import Segment, Slot, Special, Words
from polymodal.errors import PromptError

END = "[eod]"
HUMAN, TASK, QUESTION, ANSWER = "Human:", "Task:", "Q:", " A:"
REFERRAL = re.compile(r"<obj[ _]?(\d{1,6})>", re.IGNORECASE)


@dataclass(frozen=True)
class Sentences:
    """array: the modality of arrays that name none.  slots: objects of a scene."""

    array: str = ""
    slots: int = 0

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; `ask` ends it with "A:" where a question waits.

        Raises PromptError for no message, a role or order that there is none of, and objects that are not shown.
        """
        if not messages:
            raise PromptError("messages: expected at least one message, found none")
        self._check_objects(messages)
        segments: list[Segment] = []
        answer_words = ""
        for message in messages:
            if message.role == "assistant":
                if message.media:
                    raise PromptError(f"messages: PaLM-E answers in words, found {message.media[0].modality} in one")
                segments.append(Words(text=f"{answer_words} {message.text}", loss_mask=True))
                answer_words = ""
                continue
            if message.role not in ("user", "system"):
                raise PromptError(
                    f"messages: this model has no role {message.role!r}; it knows system, user, assistant"
                )
            segments += [Words(text=" ")] if segments else []
            segments += self._sentence(message)
            question = message.role == "user" and _opening(message) in ("", QUESTION)
            answer_words = ANSWER if question else ""
        if ask:
            return (*segments, Words(text=answer_words)) if answer_words else tuple(segments)
        return (*segments, Special(name=END, loss_mask=True)) if messages[-1].role == "assistant" else tuple(segments)

    def _sentence(self, message: Message) -> Iterator[Segment]:
        """One message that is no answer."""
        parts = list(message.parts)
        first = next((i for i, part in enumerate(parts) if isinstance(part, Text)), len(parts))
        shown = [part for part in parts[:first] if isinstance(part, Media)]
        words: list[Segment] = [
            Words(text=part.text) if isinstance(part, Text) else Slot(media=part) for part in parts[first:]
        ]
        opening = _opening(message)
        if opening == HUMAN:
            yield from words
            if shown:
                yield Words(text=" I see ")
                yield from _joined(shown)
            return
        named = [item for item in shown if self._objects(item)]
        given = [item for item in shown if item not in named]
        for item in named:
            yield Slot(media=item)
            yield Words(text=" ")
        if given:
            yield Words(text="Given ")
            yield from _joined(given)
            yield Words(text=" ")
        if words and not opening and message.role == "user":
            yield Words(text=f"{QUESTION} ")
        yield from words

    def _objects(self, item: Media) -> int:
        """How many objects an item names; 0 for one that stands in a sentence like a word."""
        kind = item.modality or self.array
        if kind == "scene":
            return self.slots
        if kind == "state" and isinstance(item, Array) and item.values.ndim == 2:
            return len(item.values)
        return 0

    def _check_objects(self, messages: Sequence[Message]) -> None:
        """Objects are numbered from 1, once; what words refer to must be among them."""
        counts = [count for message in messages for item in message.media if (count := self._objects(item))]
        if len(counts) > 1:
            raise PromptError(
                f"messages: objects are numbered once in a conversation, found {len(counts)} lists of them"
            )
        count = counts[0] if counts else 0
        for message in messages:
            for found in REFERRAL.finditer(message.text):
                if not 1 <= int(found[1]) <= count:
                    raise PromptError(f"messages: {found[0]} is not shown; there are {count} objects")


def _opening(message: Message) -> str:
    """The word of a printed prompt that a message begins with, "" where it begins otherwise."""
    text = message.text.lstrip()
    return next((word for word in (HUMAN, TASK, QUESTION) if text.startswith(word)), "")


def _joined(items: Sequence[Media]) -> Iterator[Segment]:
    """`<img> and <img>.`"""
    for number, item in enumerate(items):
        if number:
            yield Words(text=" and ")
        yield Slot(media=item)
    yield Words(text=".")
