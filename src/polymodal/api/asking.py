"""Asking a loaded model: what `chat` was given as messages, one answer in pieces, many answers in batches.

Where the time goes is measured on the way: each piece of work is given the clock of its own answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from polymodal.api.clock import Clock
from polymodal.api.inputs import check_media
from polymodal.api.reply import Reply
from polymodal.data.messages import Message, conversation, user
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.generation.chat import collate_left
from polymodal.generation.generate import generate, stream
from polymodal.generation.output import DecodingConstraints, Generation, collect
from polymodal.generation.sampling import SamplingOptions
from polymodal.nn.first_weight import first_weight

if TYPE_CHECKING:
    from polymodal.api.model import Model
    from polymodal.data.processor import Encoded


class Stream:
    """Pieces of one answer.  Iterate once; then `reply` holds the whole with its costs, and `ids` its tokens."""

    def __init__(self, model: Model, messages: tuple[Message, ...], options: SamplingOptions) -> None:
        check_media(model, *(item for message in messages for item in message.media))
        self._model = model
        self._messages = messages
        self._options = options
        self._reply: Reply | None = None
        self.ids: tuple[int, ...] = ()

    @property
    def reply(self) -> Reply:
        """The finished answer; raises PromptError before the stream has ended."""
        if self._reply is None:
            raise PromptError("the answer is not finished; iterate over the stream first")
        return self._reply

    def __iter__(self) -> Iterator[str]:
        """Pieces that are not empty, as soon as they are certain."""
        module = self._model.module_for(any(message.media for message in self._messages))
        clock = Clock(first_weight(module).device)
        sessions = self._model.sessions(module)
        # Everything before the first token is prefill, apart from what the clock counts elsewhere.
        with clock.measure("prefill"):
            encoded = sessions.encode(self._messages, clock.measure)
        if self._options.beams > 1:
            yield from self._beam_search(module, encoded, clock)
            return
        with sessions.chat(encoded) as chat:
            pieces = []
            written, phase = chat.write(encoded, self._options, clock.measure), "prefill"
            while (piece := clock.next(phase, written)) is not None:
                pieces.append(piece)
                phase = "generate"
                if piece.text:
                    yield piece.text
            self._finish(collect(pieces, len(encoded), chat.constraints), encoded, clock)

    def _beam_search(self, module: Any, encoded: Encoded, clock: Clock) -> Iterator[str]:
        """Beam search knows its answer only at the end: one piece."""
        (found,) = _answers(self._model, module, [encoded], [self._options], clock)
        self._finish(found, encoded, clock)
        yield found.text or ""

    def _finish(self, found: Generation, encoded: Encoded, clock: Clock) -> None:
        self.ids = found.ids
        self._reply = reply_of(self._model, found, encoded, clock.seconds)


def reply_of(model: Model, found: Generation, encoded: Encoded, seconds: Mapping[str, float]) -> Reply:
    """An answer with its costs."""
    return Reply(
        text=found.text or "",
        model=model.name,
        tokens={**encoded.counts(), "generated": len(found.ids)},
        seconds={"load": model.load_seconds, **seconds},
        logprobs=tuple(each.logprob for each in found.logprobs or ()),
        finish=found.finish_reason,
    )


def answer_batch(
    model: Model, conversations: Sequence[Any], options: Sequence[SamplingOptions], batch_size: int
) -> list[Reply]:
    """One reply for each conversation, in order; those without media may have a module of their own."""
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, found {batch_size}")
    read = [_read(given, f"conversations[{index}]") for index, given in enumerate(conversations)]
    for index, messages in enumerate(read):
        with _located(f"conversations[{index}]"):
            check_media(model, *(item for message in messages for item in message.media))
    groups: dict[bool, list[int]] = {}
    for index, messages in enumerate(read):
        groups.setdefault(any(message.media for message in messages), []).append(index)
    found: dict[int, Reply] = {}
    for media, indices in groups.items():
        module = model.module_for(media)
        sessions = model.sessions(module)
        for first in range(0, len(indices), batch_size):
            some = indices[first : first + batch_size]
            clock, rows = Clock(first_weight(module).device), []
            for index in some:
                with _located(f"conversations[{index}]"), clock.measure("prefill"):
                    rows.append(sessions.encode(read[index], clock.measure))
            answers = _answers(model, module, rows, [options[index] for index in some], clock)
            for index, row, each in zip(some, rows, answers, strict=True):
                found[index] = reply_of(model, each, row, clock.seconds)
    return [found[index] for index in range(len(read))]


def _answers(
    model: Model, module: Any, rows: Sequence[Encoded], options: Sequence[SamplingOptions], clock: Clock
) -> list[Generation]:
    """Answers to conversations that are encoded, all at once."""
    sessions = model.sessions(module)
    processor = sessions.processor
    constraints = DecodingConstraints(tokenizer=processor.tokenizer)
    with clock.measure("prefill"):
        spans = [span for row in rows for span in row.media_spans]
        features = sessions.features.features(module, processor, spans, clock.measure)
        batch = collate_left(processor, rows)
    if any(option.beams > 1 for option in options):
        with clock.measure("generate"):
            return generate(module, batch, options, constraints, features=features)
    pieces: list[list[Any]] = [[] for _ in rows]
    written, phase = stream(module, batch, options, constraints, features=features), "prefill"
    while (piece := clock.next(phase, written)) is not None:
        pieces[piece.row].append(piece)
        phase = "generate"
    return [collect(found, len(row), constraints) for found, row in zip(pieces, rows, strict=True)]


def messages_of(content: Sequence[Any]) -> tuple[Message, ...]:
    """What `chat` was given as messages: one list of messages, or texts and media of one user message.

    Raises PromptError when there is nothing to answer: the last message holds neither words nor media.
    """
    listed = len(content) == 1 and isinstance(content[0], list | tuple)
    if listed and any(isinstance(each, list | tuple) for each in content[0]):
        raise PromptError("chat answers one conversation; several at once are for model.chat_batch([...])")
    messages = conversation(content[0]) if listed else (user(*content),) if content else ()
    if not messages or not (messages[-1].media or messages[-1].text.strip()):
        raise PromptError('chat needs something to answer, as in: model.chat("What is this?", pm.image("a.jpg"))')
    return messages


def _read(given: Any, where: str) -> tuple[Message, ...]:
    """One of `chat_batch`'s conversations: a list of messages, or what stands in one user message."""
    listed = isinstance(given, list | tuple)
    talk = listed and all(isinstance(each, Message) or (isinstance(each, Mapping) and "role" in each) for each in given)
    with _located(where):
        return messages_of([given] if talk or not listed else given)


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Errors of the input are reported with the index."""
    try:
        yield
    except (PromptError, MediaError) as problem:
        raise type(problem)(f"{where}: {problem}") from problem
