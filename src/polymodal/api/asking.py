"""Asking a loaded model: what `chat` was given as messages, one answer in pieces, many answers in batches.

Where the time goes is measured on the way: each piece of work is given the clock of its own answer.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.api.clock import Clock
from polymodal.api.inputs import check_conversation
from polymodal.api.media import MEDIA_TYPES, as_media, is_recording, media_of
from polymodal.api.reply import Reply
from polymodal.api.tensors import answering
from polymodal.data.media import Image, Media, Text
from polymodal.data.messages import Message, conversation, user
from polymodal.engine.request import Request
from polymodal.errors import MediaError, PromptError
from polymodal.generation.output import Generation, Piece, collect
from polymodal.generation.sampling import SamplingOptions
from polymodal.nn.first_weight import first_weight
from polymodal.pipelines.batches import check_batch_size

if TYPE_CHECKING:
    from polymodal.api.model import Model
    from polymodal.data.processor import Encoded
    from polymodal.engine.client import Client


class Stream:
    """Pieces of one answer.  Iterate once; then `reply` holds the whole with its costs, and `ids` its tokens.

    `stop` called between two pieces ends the answer there.
    """

    def __init__(self, model: Model, messages: tuple[Message, ...], options: SamplingOptions) -> None:
        check_conversation(model, messages)
        self._model = model
        self._messages = messages
        self._options = options
        self._reply: Reply | None = None
        self._stopped: str | None = None
        self.ids: tuple[int, ...] = ()

    @property
    def reply(self) -> Reply:
        """The finished answer; raises PromptError before the stream has ended."""
        if self._reply is None:
            raise PromptError("the answer is not finished; iterate over the stream first")
        return self._reply

    def stop(self, finish_reason: str = "stopped") -> None:
        """End the answer with the piece that came last; `finish_reason` is what its reply says then."""
        self._stopped = finish_reason

    def __iter__(self) -> Iterator[str]:
        """Pieces that are not empty, as soon as they are certain."""
        with answering(self._model):
            yield from self._pieces()

    def _pieces(self) -> Iterator[str]:
        """The answer, and of a model that asks for further turns those with the words between them."""
        messages, replies, pictures, next_turn = self._messages, [], [], self._model.next_turn
        while True:
            reply = yield from self._answer(messages)
            follow = None if next_turn is None or self._stopped is not None else next_turn(messages, reply.text)
            if follow is None:
                break
            replies += [reply, replace(reply, text=f" {follow.text} ", tokens={}, seconds={}, logprobs=())]
            pictures += [item.picture for item in follow.media if isinstance(item, Image)]
            messages = (*messages, Message(role="assistant", parts=(Text(reply.text),)), follow)
            yield f" {follow.text} "
        self._reply = joined([*replies, reply], pictures) if replies else reply

    def _answer(self, messages: tuple[Message, ...]) -> Generator[str, None, Reply]:
        module = self._model.module_for(any(message.media for message in messages))
        clock = Clock(first_weight(module).device)
        client = self._model.client(module)
        # Everything before the first token is prefill, apart from what the clock counts elsewhere.
        with clock.measure("prefill"):
            encoded = client.engine.encode(messages, clock.measure)
        request = Request(encoded=encoded, options=self._options, measure=clock.measure)
        written, phase = client.write(request), _first_phase([self._options])
        pieces = []
        while self._stopped is None and (piece := clock.next(phase, written)) is not None:
            pieces.append(piece)
            phase = "generate"
            if piece.text:
                yield piece.text
        written.close()
        found = collect(pieces, len(encoded), client.engine.constraints)
        if self._stopped is not None and pieces[-1].finish_reason is None:
            found = replace(found, finish_reason=self._stopped)
        self.ids += found.ids
        return reply_of(self._model, found, encoded, clock.seconds)


def joined(replies: Sequence[Reply], pictures: Sequence[Any]) -> Reply:
    """The replies of several turns as one, with what they wrote and cost together, the last one's prompt, and the
    pictures made on the way."""
    last = replies[-1]
    seconds = dict.fromkeys((name for reply in replies for name in reply.seconds), 0.0)
    for reply in replies:
        for name, value in reply.seconds.items():
            seconds[name] = value if name == "load" else seconds[name] + value
    generated = sum(reply.tokens.get("generated", 0) for reply in replies)
    return replace(
        last,
        text="".join(reply.text for reply in replies),
        tokens={**last.tokens, "generated": generated},
        seconds=seconds,
        logprobs=tuple(each for reply in replies for each in reply.logprobs),
        media={"image": list(pictures)},
    )


def reply_of(model: Model, found: Generation, encoded: Encoded, seconds: Mapping[str, float]) -> Reply:
    """An answer with its costs."""
    return Reply(
        text=found.text or "",
        model=model.name,
        tokens={**encoded.counts(), "generated": len(found.ids)},
        seconds={"load": model.load_seconds, **seconds},
        logprobs=tuple(each.logprob for each in found.logprobs or ()),
        finish_reason=found.finish_reason,
    )


def answer_batch(
    model: Model, conversations: Sequence[Any], options: Sequence[SamplingOptions], batch_size: int
) -> list[Reply]:
    """One reply for each conversation, in order; those without media may have a module of their own.

    A model that asks for further turns answers one conversation after another.
    """
    check_batch_size(batch_size)
    read = [_read(given, f"conversations[{index}]") for index, given in enumerate(conversations)]
    for index, messages in enumerate(read):
        with _located(f"conversations[{index}]"):
            check_conversation(model, messages)
    if model.next_turn is not None:
        asked = enumerate(zip(conversations, options, strict=True))
        return [_alone(model, *each, f"conversations[{index}]") for index, each in asked]
    groups: dict[bool, list[int]] = {}
    for index, messages in enumerate(read):
        groups.setdefault(any(message.media for message in messages), []).append(index)
    found: dict[int, Reply] = {}
    for media, indices in groups.items():
        module = model.module_for(media)
        engine = model.client(module).engine
        for first in range(0, len(indices), batch_size):
            some = indices[first : first + batch_size]
            clock, requests = Clock(first_weight(module).device), []
            for index in some:
                with _located(f"conversations[{index}]"), clock.measure("prefill"):
                    encoded = engine.encode(read[index], clock.measure)
                    requests.append(Request(encoded=encoded, options=options[index], measure=clock.measure))
            with answering(model):
                answers = _answers(model.client(module), requests, clock)
            for index, request, each in zip(some, requests, answers, strict=True):
                found[index] = reply_of(model, each, request.encoded, clock.seconds)
    return [found[index] for index in range(len(read))]


def _alone(model: Model, given: Any, options: SamplingOptions, where: str) -> Reply:
    """The reply to one conversation of several."""
    read = _read(given, where)
    with _located(where):
        stream = Stream(model, read, options)
        for _ in stream:
            pass
    return stream.reply


def _answers(client: Client, requests: Sequence[Request], clock: Clock) -> list[Generation]:
    """Answers to conversations that are encoded, all at once."""
    pieces: list[list[Piece]] = [[] for _ in requests]
    written, phase = client.pieces(requests), _first_phase([request.options for request in requests])
    while (found := clock.next(phase, written)) is not None:
        pieces[found[0]].append(found[1])
        phase = "generate"
    prompts = [len(request.encoded) for request in requests]
    return [collect(some, length, client.engine.constraints) for some, length in zip(pieces, prompts, strict=True)]


def _first_phase(options: Sequence[SamplingOptions]) -> str:
    """What the time until the first token is: a beam search has written all of them by then."""
    return "generate" if any(option.beams > 1 for option in options) else "prefill"


def messages_of(content: Sequence[Any]) -> tuple[Message, ...]:
    """What `chat` was given as messages: one list of messages, or texts and media of one user message.

    Raises PromptError when there is nothing to answer: the last message holds neither words nor media.
    """
    listed = len(content) == 1 and isinstance(content[0], list | tuple) and not is_recording(content[0])
    if listed and any(isinstance(each, list | tuple) for each in content[0]):
        raise PromptError("chat answers one conversation; several at once are for model.chat_batch([...])")
    if listed:
        messages = conversation([_with_media(message) for message in content[0]])
    else:
        messages = (user(*map(_part, content)),) if content else ()
    if not messages or not (messages[-1].media or messages[-1].text.strip()):
        raise PromptError('chat needs something to answer, as in: model.chat("What is this?", pm.image("a.jpg"))')
    return messages


def _part(part: Any) -> Any:
    """What is media as a record of it; texts, records and typed parts as they are.

    Raises PromptError for a text that is the name of a file here, which was surely meant to be looked at.
    """
    if isinstance(part, str):
        if names_file(part):
            kind = (mimetypes.guess_type(part)[0] or "").partition("/")[0]
            maker = f"pm.{kind if kind in MEDIA_TYPES else 'media'}({part!r})"
            raise PromptError(f"{part!r} is a file here; give {maker} or a Path, or pm.text({part!r}) for the words")
        return part
    if isinstance(part, Mapping) and part.get("type") == "image" and "image" in part:
        value = part["image"]
        return {**part, "image": value if isinstance(value, str | Mapping | Media) else media_of(value)}
    found = as_media(part)
    return part if found is None else found


def _with_media(message: Any) -> Any:
    """A message whose parts are as `_part` has them; a mapping's content may be a single one."""
    if not isinstance(message, Mapping) or "content" not in message:
        return message
    content = message["content"]
    if isinstance(content, list) or (isinstance(content, tuple) and not is_recording(content)):
        return {**message, "content": [part if isinstance(part, str) else _part(part) for part in content]}
    return {**message, "content": content if isinstance(content, str) else _part(content)}


def names_file(text: str) -> bool:
    """Whether a text is the name of a file here, with an extension, as words seldom are."""
    if len(text) > 255 or "\n" in text or not Path(text).suffix:
        return False
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _read(given: Any, where: str) -> tuple[Message, ...]:
    """One of `chat_batch`'s conversations: a list of messages, or what stands in one user message."""
    listed = isinstance(given, list | tuple) and not is_recording(given)
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
