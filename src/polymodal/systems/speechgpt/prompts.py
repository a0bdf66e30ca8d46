"""What SpeechGPT reads and writes: one question and one answer, speech in both as units.

    {the system's words}[Human]: {question} <eoh>. [SpeechGPT]: {answer}<eoa></s>
    question    words, units, or "Recognize this speech, this is input:" and units
    answer      words, units, or all three: "words heard; [ta] words; [ua] <sosp>units<eosp>"   (chain of modality)

Traps: the published files of training have "<eoh> [SpeechGPT]:" or "<eoh>. [SpeechGPT]:" with no space in front, the
code that asks the model has " <eoh>. " between; this is the latter.  Several turns were never trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message, user
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words, Written
from polymodal.data.tokenizer import Tokenizer
from polymodal.pipelines import speech_units
from polymodal.pipelines.speech_units import SpeechUnits
from polymodal.pipelines.spoken_answer import SpokenAnswer

META = (
    "You are an AI assistant whose name is SpeechGPT.\n- SpeechGPT is a intrinsic cross-modal conversational language "
    "model that is developed by Fudan University.  SpeechGPT can understand and communicate fluently with human "
    "through speech or text chosen by the user.\n"
    "- It can perceive cross-modal inputs and generate cross-modal outputs.\n"
)
HUMAN, NAME, ASKED, ANSWERED = "[Human]", "[SpeechGPT]", "<eoh>", "<eoa>"
MARKS = (HUMAN, NAME, ASKED, ANSWERED)
INPUT = "is input:"
SAY = "Read this sentence aloud, this is input: "
CHAIN = re.compile(r"(?P<heard>.*?); ?\[ta\](?P<text>.*?)(?:; ?\[ua\](?P<units>.*))?", re.DOTALL)


def mark(tokenizer: Tokenizer, name: str, loss: bool = False) -> Written:
    """One of MARKS, as a token where the vocabulary has it; the first model's has none of them, none has <eoa>."""
    if name in tokenizer.special_tokens:
        return Special(name=name, loss_mask=loss)
    return Words(text=name, loss_mask=loss)


def template(tokenizer: Tokenizer) -> Template:
    """The format of questions; in training, questions and answers are learned, the system's words are not."""
    human, name, asked, answered = (mark(tokenizer, each, loss=True) for each in MARKS)
    begin = () if tokenizer.bos_id is None else (Special(name=tokenizer.token(tokenizer.bos_id)), TEXT_START)
    end = () if tokenizer.eos_id is None else (Special(name=tokenizer.token(tokenizer.eos_id), loss_mask=True),)
    question = Turn(
        before=(human, Words(text=": ", loss_mask=True)),
        after=(Words(text=" ", loss_mask=True), asked, Words(text=". ", loss_mask=True)),
        loss_mask=True,
    )
    answer = Turn(before=(name, Words(text=": ", loss_mask=True)), after=(answered,), loss_mask=True)
    return Template(
        turns={"system": Turn(), "user": question, "assistant": answer},
        begin=begin,
        ask=(mark(tokenizer, NAME), Words(text=": ")),
        default_system=META,
        end=end,
    )


def as_input(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Recordings beside words stand behind "is input:", as the published prompts have them, without a space."""
    return tuple(_as_input(message) for message in messages)


def _as_input(message: Message) -> Message:
    typed = "".join(part.text for part in message.parts if isinstance(part, Text))
    sounds = [part for part in message.parts if isinstance(part, Audio)]
    if not sounds or not typed.strip():
        return message
    if INPUT not in typed:
        words = typed.strip()
        words += f" This {INPUT}" if words[-1] in ".?!" else f", this {INPUT}"
        return replace(message, parts=(Text(words), *sounds))
    parts = []
    for place, part in enumerate(message.parts):
        follows = place + 1 < len(message.parts) and isinstance(message.parts[place + 1], Audio)
        if isinstance(part, Text) and follows and part.text.rstrip().endswith(INPUT):
            part = Text(part.text.rstrip())
        parts.append(part)
    return replace(message, parts=tuple(parts))


@dataclass(frozen=True)
class SpokenAnswers:
    """What an answer of SpeechGPT says, and how it sounds."""

    speech: SpeechUnits

    def spoken(self, answer: str) -> SpokenAnswer:
        """Words and sound of an answer; PromptError names a unit that the vocoder does not have."""
        found = answer.partition(ANSWERED)[0]
        chain = CHAIN.fullmatch(found)
        heard = chain["heard"].strip() if chain else ""
        units = speech_units.read(found) if speech_units.BEGIN in found else []
        said = chain["text"] if chain else found.partition(speech_units.BEGIN)[0]
        if not units:
            return SpokenAnswer(text=said.strip(), heard=heard)
        samples, rate = self.speech.speak(units)
        return SpokenAnswer(text=said.strip(), heard=heard, samples=samples, rate=rate)

    def request(self, text: str) -> tuple[Message, ...]:
        """The published request for a text to be spoken."""
        return (user(f"{SAY}{text.strip()}"),)
