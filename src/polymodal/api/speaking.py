"""`Model.speak` and `Model.say`: sound of a model that speaks itself.

speak   an answer as `chat` writes it, its words apart from its speech -> Reply.media["audio"], a Speech
say     a text, which the model is asked to read aloud -> Speech
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polymodal.api.reply import Reply
from polymodal.api.tensors import answering
from polymodal.api.voice import Speech
from polymodal.errors import PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.spoken_answer import SpeaksAnswers

if TYPE_CHECKING:
    from polymodal.api.model import Model


def speak(self: Model, *content: Any, options: SamplingOptions | None = None, **changes: Any) -> Reply:
    """Answer like `chat`, aloud: `reply.text` are the words, `reply.heard` what the model understood of a recording,
    where its answer says that, and `reply.media["audio"]` holds the speech, none where it did not speak.

    Raises as `chat` does; ConfigError for a model that does not speak, PromptError for units that there are not.
    """
    self.require("say")
    return spoken(self, self.chat(*content, options=options, **changes))


def say(self: Model, text: str, *, options: SamplingOptions | None = None, **changes: Any) -> Speech:
    """A text as the model reads it aloud when it is asked to.

    Raises ConfigError for a model that does not speak, PromptError for an answer without speech.
    """
    self.require("say")
    if not isinstance(text, str) or not text.strip():
        raise PromptError(
            f"say: expected a text, found {'an empty one' if isinstance(text, str) else type(text).__name__}"
        )
    reply = spoken(self, self.chat(list(speaker(self).request(text)), options=options, **changes))
    sounds: Sequence[Any] = reply.media["audio"]
    if not sounds:
        words = f"{reply.text[:60]!r}" if reply.text else "nothing"
        raise PromptError(f"{self.name} answered without speech ({words}) when it was asked to say the text")
    return replace(sounds[0], text=text)


def speaker(model: Model) -> SpeaksAnswers:
    """What speaks for a model of which `say` was required."""
    found = model._parts.speaks
    assert found is not None
    return found


def spoken(self: Model, reply: Reply) -> Reply:
    """A reply of `chat` as `speak` gives it, its words and its speech apart."""
    self.require("say")
    begin = time.perf_counter()
    with answering(self):
        found = speaker(self).spoken(reply.text)
    speech = [] if found.samples is None else [Speech(samples=found.samples, rate=found.rate, text=found.text)]
    seconds = {**reply.seconds, "speak": time.perf_counter() - begin}
    return replace(reply, text=found.text, heard=found.heard, media={**reply.media, "audio": speech}, seconds=seconds)
