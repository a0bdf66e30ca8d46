"""GILL's prompts: texts and pictures as they come; what the model wrote before stands in them as it wrote it.

pictures and texts in order, the begin token in front of the first text; no roles, and nothing between messages
a picture of an answer is " [IMG0]..[IMG7]", as the published demo hands an answer back to the model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words
from polymodal.errors import PromptError

CLS, BEGIN = "<|image|>", "</s>"


@dataclass(frozen=True, kw_only=True)
class InterleavedFormat:
    """signal: names of the tokens that stand for a picture of an answer."""

    signal: tuple[str, ...]

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Raises PromptError for a conversation of nothing."""
        made: list[Segment] = []
        begun = False
        for message in messages:
            learned = message.role == "assistant"
            for part in message.parts:
                if not isinstance(part, Text) and not learned:
                    made.append(Slot(media=part))
                    continue
                made += [TEXT_START] if begun else [Special(name=BEGIN, loss_mask=learned), TEXT_START]
                begun = True
                if isinstance(part, Text):
                    made.append(Words(text=part.text, loss_mask=learned))
                else:
                    made += [Special(name=name, loss_mask=learned and not number)
                             for number, name in enumerate(self.signal)]  # fmt: skip
        if not made:
            raise PromptError("messages: expected a text or a picture, found none")
        return tuple(made)
