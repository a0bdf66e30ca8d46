"""What PaLI-X is asked with: the prompts of PaLI (arXiv 2209.06794), and where pictures stand.

    question   "Answer in EN: What is it? <extra_id_0>"                    -> "a dog"
    caption    "Generate the alt_text in EN at 0: <extra_id_0>"            begun: "... at 8: A dog <extra_id_0>"
    text       "Generate the ocr_text in EN: <extra_id_0>"
    asking     "Generate a question in EN for a dog: <extra_id_0>"
    detection  "Detect a dog and a cat: <extra_id_0>"                      -> boxes, `boxes.py`
    shots      "Answer in EN: What is it? a dog Answer in EN: And this? <extra_id_0>"

Words that begin like a printed prompt stay as they are, others are a question in English; pictures of the whole talk go
in front.  Captions and questions are printed so in PaLI's paper, the other three are recalled; how shots are joined and
what PaLI-X changed was not published.
"""

from __future__ import annotations

from dataclasses import replace

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Special, Template, Turn
from polymodal.errors import PromptError

PRINTED = ("Answer in ", "Generate ", "Detect ")
HOLE, END = "<extra_id_0>", "</s>"
TEMPLATE = Template(
    turns={
        "picture": Turn(after=(TEXT_START,)),
        "user": Turn(after=(Special(name=HOLE), Special(name=END))),
        "assistant": Turn(after=(Special(name=END, loss_mask=True),), loss_mask=True),
    }
)


def question(words: str, language: str = "EN") -> str:
    """A question that is to be answered in a language, by its code."""
    return f"Answer in {language.upper()}: {words}"


def caption(language: str = "EN", begun: str = "", position: int | None = None) -> str:
    """Asks for a caption, or for how one goes on.  position: of the character where it does, by default behind `begun`.

    Raises PromptError for a position within the words that are given.
    """
    place = len(begun) if position is None else position
    if place < len(begun):
        raise PromptError(f"caption: position {place} lies within the {len(begun)} characters that it begins with")
    return f"Generate the alt_text in {language.upper()} at {place}:" + (f" {begun}" if begun else "")


def ocr(language: str = "EN") -> str:
    """Asks for the text that stands in a picture."""
    return f"Generate the ocr_text in {language.upper()}:"


def asking(answer: str, language: str = "EN") -> str:
    """Asks for a question that has this answer."""
    return f"Generate a question in {language.upper()} for {answer}:"


def detect(*names: str) -> str:
    """Asks for boxes of things by name.  Raises PromptError for none."""
    if not names:
        raise PromptError("detect: expected the name of one thing at least, found none")
    return f"Detect {' and '.join(names)}:"


def prompted(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Pictures and videos in a turn of their own in front; the earlier rounds of a talk before its last question."""
    media = tuple(part for message in messages for part in message.media)
    rounds = [replace(message, parts=(Text(_printed(message)),)) for message in messages]
    asked = [index for index, message in enumerate(rounds) if message.role != "assistant"]
    if not asked:
        raise PromptError("messages: expected a question, found an answer alone")
    last = asked[-1]
    words = " ".join(message.text.strip() for message in rounds[: last + 1])
    spoken = replace(rounds[last], role="user", parts=(Text(f"{words} "),))
    return (Message(role="picture", parts=media), spoken, *rounds[last + 1 :])


def _printed(message: Message) -> str:
    words = message.text
    if message.role != "user" or words.startswith(PRINTED):
        return words
    return question(words) if words.strip() else caption()
