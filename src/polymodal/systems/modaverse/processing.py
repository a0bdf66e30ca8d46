"""How ModaVerse writes an instruction, and the answer that says what shall be made.

    <s>### Human: <Media>P</Media> instruction\\n### Assistant:Modality: [IMAGE] Prompt: a cat on a roof ###

Traps: each piece between media is stripped and tokenised alone; without media two spaces stand behind "Human:"; the
published code answers one instruction, with one item of each kind at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.data.imagebind_formats import alternating, tokenised_apart
from polymodal.data.messages import Message
from polymodal.data.template import Segment, Slot, Special, Words
from polymodal.errors import PromptError

BEGIN, END = "<Media>", "</Media>"
FLAGS = ("[TEXT]", "[IMAGE]", "[AUDIO]", "[VIDEO]")
ANSWER = "Modality: [{flag}] Prompt: {prompt} ###"


@dataclass(frozen=True, kw_only=True)
class ModaVerseFormat:
    """One instruction.  begin: the begin token."""

    begin: str

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """The media of an answer say what it asks for, and are not read; its words are the prompt.

        Raises PromptError for more than one instruction and for two items of one kind.
        """
        alternating(messages, ask)
        if len(messages) > 2 - ask:
            raise PromptError(
                f"messages: this model answers one instruction and was not trained on further turns; "
                f"found {len(messages)} messages"
            )
        question, media = messages[0], messages[0].media
        if many := [name for name, count in Counter(each.modality for each in media).items() if count > 1]:
            raise PromptError(f"messages: this model takes one item of each kind; found more of {', '.join(many)}")
        pieces: list[Segment] = [Special(name=self.begin)]
        asked = f"{question.text}\n### Assistant:"
        if media:
            pieces += [Words(text="### Human:"), *(Slot(media=each) for each in media), Words(text=asked.strip())]
        else:
            pieces.append(Words(text=f"### Human:  {asked}"))
        if len(messages) == 2:
            pieces.append(Words(text=meta_response(messages[1]), loss_mask=True))
        return tokenised_apart(pieces)


def meta_response(message: Message) -> str:
    """An answer in the published form; words that have it already stay as they are."""
    text = message.text.strip()
    if text.startswith("Modality:"):
        return text if text.endswith("###") else f"{text} ###"
    flag = message.media[0].modality.upper() if message.media else "TEXT"
    if f"[{flag}]" not in FLAGS:
        raise PromptError(f"messages: this model makes text, image, audio and video; found {flag.lower()} in an answer")
    return ANSWER.format(flag=flag, prompt=text)
