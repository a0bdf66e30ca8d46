"""VITA's duplex pair: one instance answers, the other hears, and takes over when it is spoken to.

    sound -> utterances (`pipelines/utterances.py`) -> the instance that hears: state <2>: it goes on hearing
                                                                               else: the other one is interrupted,
                                                                                     and both change their parts
    pair = Duplex(Engine(model.module, model.processor), Engine(model.module, model.processor))
    for moment in pair.hear(samples): ...

Two engines may share one module: an instance is what it holds, not its weights.  As in the published demonstration,
utterances of less than 1.5 s are dropped, an answer that was interrupted stays in the history as far as it came, and
of what was shown only the present is looked at.  Otherwise than there, noise does not change who hears, and the answer
that is being written belongs to the context of the question that interrupts it, as the paper says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from polymodal.data.media import Audio, Media, Text
from polymodal.data.messages import Message
from polymodal.engine.engine import Engine
from polymodal.engine.request import Event, Request
from polymodal.errors import ConfigError, PolymodalError
from polymodal.generation.output import GREEDY
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.utterances import PIECE, RATE, Utterance, Utterances
from polymodal.systems.vita.processing import NOISE, QUERY, STATES, read_state


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What happened: an utterance was "ignored" as noise; an answer "began", was "interrupted" or "finished", or
    "failed"; words were "said".  instance: 0 or 1.  at: seconds of sound so far.  text: the words, or all of them."""

    kind: Literal["ignored", "began", "said", "interrupted", "finished", "failed"]
    instance: int
    at: float
    text: str = ""


@dataclass(kw_only=True)
class _Answer:
    """One that is being written.  state: None while too little of it is there."""

    number: int
    question: Message
    state: str | None = None
    raw: str = ""

    @property
    def words(self) -> str:
        """What it says, without the state."""
        return "" if self.state is None else read_state(self.raw)[1]

    def add(self, event: Event, names: dict[int, str]) -> None:
        """The next token; names: state tokens of the vocabulary by their ids."""
        if event.piece is not None:
            self.raw += event.piece.text
            self.state = self.state or names.get(event.piece.id)
        begun = self.raw.lstrip()
        undecided = any(state.startswith(begun) and state != begun for state in STATES)
        if self.state is None and (event.done or not undecided):
            self.state = read_state(self.raw)[0] or QUERY


@dataclass(kw_only=True)
class _Instance:
    engine: Engine
    answer: _Answer | None = None

    def ended(self) -> _Answer:
        """Its answer, which it gives up."""
        assert self.answer is not None
        answer, self.answer = self.answer, None
        self.engine.abort(answer.number)
        self.engine.sweep()
        return answer


@dataclass(kw_only=True)
class DuplexOptions:
    """history: earlier questions that a new one is asked with.  steps: rounds of both engines for each 256 ms of sound.
    system: message in place of the published one."""

    history: int = 1
    steps: int = 8
    system: str | None = None
    sampling: SamplingOptions = field(default_factory=lambda: GREEDY)

    def __post_init__(self) -> None:
        if self.history < 0 or self.steps < 1:
            raise ConfigError(f"duplex: expected history of 0 and steps of 1 or more, found {self}")


class Duplex:
    """scene: pictures or a video that are shown at present; set it whenever they change.

    Raises ConfigError for engines whose model hears nothing, or for one engine twice.
    """

    def __init__(
        self, first: Engine, second: Engine, *, options: DuplexOptions | None = None, ears: Utterances | None = None
    ) -> None:
        if first is second:
            raise ConfigError("duplex: expected two engines, found one of them twice; they may share one module")
        for engine in (first, second):
            if "audio" not in engine.processor.modalities:
                raise ConfigError(f"duplex: the model takes {', '.join(engine.processor.modalities)}, and no audio")
        self.options = options or DuplexOptions()
        self.ears = ears or Utterances()
        self.scene: Sequence[Media] = ()
        self.history: list[tuple[Message, Message]] = []
        self.speaking = 0  # the instance that answers, or did last
        self._instances = (_Instance(engine=first), _Instance(engine=second))
        known = first.processor.tokenizer.special_tokens
        self._states = {known[state]: state for state in STATES if state in known}
        self._waiting: deque[Utterance] = deque()

    def hear(self, samples: np.ndarray) -> Iterator[Moment]:
        """Sound as it comes, float32 [n] at 16 kHz, and what happens meanwhile."""
        for start in range(0, len(samples), PIECE):
            before = self.ears.pieces
            self._waiting.extend(self.ears.add(samples[start : start + PIECE]))
            for _ in range(self.options.steps * (self.ears.pieces - before)):
                yield from self._advance()

    def finish(self) -> Iterator[Moment]:
        """The sound has ended: what was said last is answered to its end."""
        self._waiting.extend(self.ears.finish())
        while self._waiting or any(each.answer for each in self._instances):
            yield from self._advance()

    def _advance(self) -> Iterator[Moment]:
        """A step of the instance that hears, then of the one that speaks."""
        hearing = 1 - self.speaking
        ear = self._instances[hearing]
        if ear.answer is None and self._waiting:
            utterance = self._waiting.popleft()
            try:
                ear.answer = self._asked(ear.engine, utterance)
            except PolymodalError as problem:
                yield self._moment("failed", hearing, str(problem))
        for index in (hearing, 1 - hearing):
            if self._instances[index].answer is not None:
                yield from self._step(index)

    def _step(self, index: int) -> Iterator[Moment]:
        instance = self._instances[index]
        for event in instance.engine.step():
            answer = instance.answer
            if answer is None or event.request != answer.number:
                continue
            if event.error is not None:
                instance.answer = None
                yield self._moment("failed", index, str(event.error))
                continue
            before, decided = answer.words, answer.state is not None
            answer.add(event, self._states)
            if answer.state == NOISE and index != self.speaking:
                instance.ended()
                yield self._moment("ignored", index)
            elif answer.state is not None:
                if not decided:
                    yield from self._take_over(index)
                if said := answer.words[len(before) :]:
                    yield self._moment("said", index, said)
                if event.done:
                    yield self._ended(index, "finished")

    def _take_over(self, index: int) -> Iterator[Moment]:
        """The instance that heard begins to speak; the other one hears from now on."""
        if self._instances[self.speaking].answer is not None:
            yield self._ended(self.speaking, "interrupted")
        self.speaking = index
        yield self._moment("began", index)

    def _ended(self, index: int, kind: Literal["finished", "interrupted"]) -> Moment:
        answer = self._instances[index].ended()
        if answer.words:
            self.history.append(_turn(answer))
            del self.history[: -self.options.history or len(self.history)]
        return self._moment(kind, index, answer.words)

    def _asked(self, engine: Engine, utterance: Utterance) -> _Answer:
        """An utterance as a question in its context.  Raises PromptError or MediaError where it is too long."""
        turns = list(self.history)
        if (going := self._instances[self.speaking].answer) is not None and going.words:
            turns.append(_turn(going))
        turns = turns[-self.options.history :] if self.options.history else []
        question = Message(role="user", parts=(*self.scene, Audio((utterance.samples, RATE))))
        system = self.options.system
        first = [] if system is None else [Message(role="system", parts=(Text(system),))]
        messages = [*first, *(message for turn in turns for message in turn), question]
        number = engine.add(Request(encoded=engine.encode(messages), options=self.options.sampling))
        return _Answer(number=number, question=question)

    def _moment(self, kind: Literal["ignored", "began", "said", "interrupted", "finished", "failed"], index: int,
                text: str = "") -> Moment:  # fmt: skip
        return Moment(kind=kind, instance=index, at=self.ears.seconds, text=text)


def _turn(answer: _Answer) -> tuple[Message, Message]:
    """A question without what was shown, and its answer as far as it came."""
    heard = tuple(part for part in answer.question.parts if isinstance(part, Audio))
    return Message(role="user", parts=heard), Message(role="assistant", parts=(Text(QUERY + answer.words),))
