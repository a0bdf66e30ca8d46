"""Formats for pictures in running text.

SharedMarks, one token around each picture, shared by pictures next to each other (IDEFICS):
    "User: " picture picture "what?"  ->  "User:" <mark> picture <mark> picture <mark> "what?"
Shots, pictures with a question, an answer and the token that ends both, again and again (Flamingo, OpenFlamingo):
    user: picture, "what?"; assistant: "a cat"  ->  picture "Question:what? Short answer:" "a cat" <end>

Trap: spaces at the border between words and a mark go, as IDEFICS' processor strips each piece of text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import Segment, Slot, Special, Template, Words
from polymodal.errors import PromptError


@dataclass(frozen=True, kw_only=True)
class SharedMarks:
    """`template`, with `mark` before, between and after the pictures of a run; called like a Template."""

    template: Template
    mark: Special

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; raises PromptError as the template does."""
        made: list[Segment] = []
        inside = False  # the last segment was a mark behind a picture
        for segment in self.template.render(messages, ask=ask):
            if isinstance(segment, Slot):
                if made and not inside and isinstance(made[-1], Words):
                    made[-1] = replace(made[-1], text=made[-1].text.rstrip(" "))
                made += [segment, self.mark] if inside else [self.mark, segment, self.mark]
                inside = True
                continue
            if inside and isinstance(segment, Words):
                segment = replace(segment, text=segment.text.lstrip(" "))
            made.append(segment)
            inside = False
        return tuple(segment for segment in made if not isinstance(segment, Words) or segment.text)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """A prompt of examples.  question, answer: around a user's words; caption: behind pictures without words; mark: the
    tokens between these and the answer; space: with loss, in front of the answer; last: behind the last answer.

    The last user's turn asks.  A system message stands as it is, in front of everything.
    """

    end: str
    question: str = "Question:"
    answer: str = " Short answer:"
    caption: str = "Output:"
    mark: tuple[Special, ...] = ()
    space: str = ""
    begin: tuple[Special, ...] = ()
    last: tuple[Special, ...] = ()

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; `ask` adds nothing, the words in front of an answer belong to the question.

        Raises PromptError for no message or for another role.
        """
        if not messages:
            raise PromptError("messages: expected at least one message, found none")
        made: list[Segment] = list(self.begin)
        for message in messages:
            text = "".join(part.text for part in message.parts if isinstance(part, Text))
            made += [Slot(media=part) for part in message.parts if not isinstance(part, Text)]
            if message.role == "user":
                made.append(Words(text=f"{self.question}{text}{self.answer}" if text else self.caption))
                made += self.mark
            elif message.role == "assistant":
                made += [Words(text=self.space + text, loss_mask=True), Special(name=self.end, loss_mask=True)]
            elif message.role == "system":
                made.append(Words(text=text))
            else:
                known = "user, assistant, system"
                raise PromptError(f"messages: this model has no role {message.role!r}; it knows {known}")
        return (*made, *(self.last if messages[-1].role == "assistant" and not ask else ()))
