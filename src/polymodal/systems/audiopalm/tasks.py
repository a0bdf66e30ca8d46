"""What AudioPaLM is asked and answers: a task in brackets, its input, and its outputs one behind the other.

    [ASR French] {units}                    {words}
    [AST French English] {units}            {words}
    [S2ST French English] {units}           {units}
    [TTS English] {words}                   {units}
    [MT French English] {words}             {words}
    [ASR AST S2ST French English] {units}   {words heard}\\n{words}\\n{units}

The tags are the paper's.  Not published: what stands between a tag and its input (a space here) and between the outputs
of a task that has several (a line break).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message, user
from polymodal.data.template import TEXT_START, Special, Template, Turn
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import PromptError
from polymodal.pipelines import speech_units
from polymodal.pipelines.speech_units import SpeechUnits, UnitForm
from polymodal.pipelines.spoken_answer import SpokenAnswer

HEARD, SPOKEN, TYPED = ("ASR", "AST", "S2ST"), ("S2ST", "TTS"), ("TTS", "MT")
TASKS = (*HEARD, *TYPED)
TAG = re.compile(r"\s*\[(?P<tasks>[A-Z0-9]+(?: [A-Z0-9]+)*) (?P<languages>[A-Z][a-z]+(?: [A-Z][a-z]+)?)\]\s*")
FORM = UnitForm(begin="", end="", merged=False, every=2)  # HuBERT gives 50 features a second
EXAMPLE = "[ASR French] and a recording, or [TTS English] and a text"


def template(tokenizer: Tokenizer) -> Template:
    """A request, and its answer behind it, which alone is learned."""
    begin = () if tokenizer.bos_id is None else (Special(name=tokenizer.token(tokenizer.bos_id)), TEXT_START)
    end = () if tokenizer.eos_id is None else (Special(name=tokenizer.token(tokenizer.eos_id), loss_mask=True),)
    return Template(turns={"user": Turn(), "assistant": Turn(after=end, loss_mask=True)}, begin=begin)


def checked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the tag of its request first, a space, and its input.

    Raises PromptError for several requests, an unknown task, and an input of another kind than the task takes.
    """
    if len(messages) > 2 or messages[0].role != "user":
        raise PromptError(f"audiopalm answers one request, without a system message; found {len(messages)} messages")
    typed = "".join(part.text for part in messages[0].parts if isinstance(part, Text))
    sounds = [part for part in messages[0].parts if isinstance(part, Audio)]
    found = TAG.match(typed)
    if found is None:
        raise PromptError(f"audiopalm: a request begins with its task, as in {EXAMPLE}; found {typed[:40]!r}")
    tasks, rest = found["tasks"].split(), typed[found.end() :].strip()
    if unknown := [task for task in tasks if task not in TASKS]:
        raise PromptError(f"audiopalm: task {unknown[0]!r} is not known; it does {', '.join(TASKS)}")
    hears = tasks[0] in HEARD
    wanted = "one recording and no words" if hears else "words and no recording"
    if any((task in HEARD) != hears for task in tasks) or (len(sounds), bool(rest)) != (
        (1, False) if hears else (0, True)
    ):
        given = f"{len(sounds)} recordings and {'words' if rest else 'no words'}"
        raise PromptError(f"audiopalm: {found[0].strip()} takes {wanted}; found {given}")
    request = Message(role="user", parts=(Text(f"{found[0].strip()} "), sounds[0] if hears else Text(rest)))
    return (request, *messages[1:])


def as_units(speech: SpeechUnits, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A checked conversation with its recording as units."""
    return speech.rewrite(checked(messages))


@dataclass(frozen=True)
class SpokenAnswers:
    """What an answer of AudioPaLM says, and how it sounds."""

    speech: SpeechUnits

    def spoken(self, answer: str) -> SpokenAnswer:
        """Words and sound of an answer.  Raises PromptError for a token that the voice does not have."""
        units = speech_units.read(answer)
        words = [line.strip() for line in speech_units.UNIT.sub("", answer).splitlines() if line.strip()]
        heard, text = ("", " ".join(words)) if len(words) < 2 else (words[0], "\n".join(words[1:]))
        if not units:
            return SpokenAnswer(text=text, heard=heard)
        samples, rate = self.speech.speak(units)
        return SpokenAnswer(text=text, heard=heard, samples=samples, rate=rate)

    def request(self, text: str) -> tuple[Message, ...]:
        """A text to be read aloud, in English unless it begins with a tag of its own."""
        return (user(text if TAG.match(text) else f"[TTS English] {text}"),)
