"""Answers that hold speech: what a model that speaks makes of the text it wrote, and how it is asked to say a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polymodal.data.messages import Message


@dataclass(frozen=True, kw_only=True, eq=False)
class SpokenAnswer:
    """text: the words of the answer, "" where it is only spoken.  heard: the words that the model understood, where its
    answer says them.  samples: float32 [n], `rate` a second; None for an answer that is not spoken."""

    text: str
    heard: str = ""
    samples: np.ndarray | None = None
    rate: int = 16_000


class SpeaksAnswers(Protocol):
    """What a model offers that speaks itself."""

    def spoken(self, answer: str) -> SpokenAnswer:
        """What an answer says, and its sound.  Raises PromptError for one that cannot be spoken."""
        ...

    def request(self, text: str) -> tuple[Message, ...]:
        """The conversation that asks the model to say a text."""
        ...
