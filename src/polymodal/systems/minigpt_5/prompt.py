"""MiniGPT-5's conversations, as its training data are written.

    {system}###Human: {text with pictures} ###Assistant:           tokenised as one string around special tokens
    {text} [IMG0]..[IMG7] ###                                       the answer, tokenised by itself

Trap: the published tokenizer strips spaces beside vokens, so `###` follows them at once, and text before them ends
without a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.data.imagebind_formats import alternating
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words

DRAWS = "You will be able to generate image according to command."
SEES = ("Give the following images in <Img>ImageContent</Img> format. You will be able to see the images once I "
        "provide it to you. Please understanding images and generate story.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VokenFormat:
    """signal: names of the vokens that stand for a picture of an answer.

    Without a system message, one of the published ones stands in front: for captions, or for stories where pictures
    are shown.
    """

    signal: tuple[str, ...]

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation that does not go question, answer, question, ..."""
        given = messages[0].text if messages and messages[0].role == "system" else None
        turns = messages if given is None else messages[1:]
        alternating(turns, ask)
        shown = any(turn.media for turn in turns if turn.role == "user")
        words = given if given is not None else SEES if shown else DRAWS
        made: list[Segment] = [Special(name="<s>"), TEXT_START, Words(text=words)]
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                made += self._answer(turn)
            else:
                made.append(Words(text=f"{' ' if index else ''}###Human: "))
                made += [Words(text=part.text) if isinstance(part, Text) else Slot(media=part) for part in turn.parts]
                made.append(Words(text=" ###Assistant:"))
        return tuple(made)

    def _answer(self, turn: Message) -> list[Segment]:
        made: list[Segment] = [TEXT_START]
        spoken = False  # a picture stands right before
        for part in turn.parts:
            if isinstance(part, Text):
                text = part.text.strip()
                made.append(Words(text=text, loss_mask=True))
                spoken = spoken and not text
            else:
                last = len(self.signal) - 1
                made += [Special(name=name, loss_mask=number in (0, last)) for number, name in enumerate(self.signal)]
                spoken = True
        return [*made, Words(text="###" if spoken else " ###", loss_mask=True)]
