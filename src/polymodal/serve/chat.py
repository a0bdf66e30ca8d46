"""POST /v1/chat/completions: a conversation with media in, answers out, whole or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from polymodal.data.messages import Message, conversation
from polymodal.engine.request import Event, Request
from polymodal.generation.output import TokenLogprob
from polymodal.serve.errors import Refused, refusal
from polymodal.serve.metrics import Metrics
from polymodal.serve.models import ServedModel
from polymodal.serve.options import answers, sampling_options
from polymodal.serve.schemas import ChatCompletion
from polymodal.serve.settings import Settings
from polymodal.serve.worker import Ticket

REASONS = {"stop": "stop", "length": "length", "timeout": "length", "abort": "stop"}


@dataclass
class Answer:
    """One of a request's answers as far as it is written."""

    text: str = ""
    tokens: int = 0
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(kw_only=True)
class Answering:
    """A request that was accepted: its events come as they happen."""

    model: ServedModel
    ticket: Ticket
    id: str
    created: int = field(default_factory=lambda: int(time.time()))


async def accept(body: ChatCompletion, model: ServedModel, settings: Settings, metrics: Metrics) -> Answering:
    """Everything that can be refused before the first token.  Raises Refused, PolymodalError."""
    limits = settings.requests
    if body.response_format not in (None, {"type": "text"}):
        raise Refused(400, "response_format: only {'type': 'text'} is offered", param="response_format")
    if body.tools and body.tool_choice != "none":
        raise Refused(400, "tools are not offered", param="tools")
    messages = read_messages(body.messages, settings)
    n = answers(body, limits)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    asked = (body.top_logprobs or 0) if body.logprobs else None
    options = sampling_options(body, model, limits, max_tokens=most, logprobs=asked)
    worker, encoded = await model.encode(messages)
    ticket = worker.submit(Request(encoded=encoded, options=options, n=n, seconds=limits.seconds))
    return Answering(model=model, ticket=metrics.watch(model.name, ticket), id=f"chatcmpl-{uuid.uuid4().hex}")


def read_messages(messages: Sequence[dict[str, Any]], settings: Settings) -> tuple[Message, ...]:
    """A client's messages as typed ones; files of this machine are not open to them.  Raises Refused, PromptError."""
    allowed = {"role", "content", "name", "refusal", "audio"}
    for index, message in enumerate(messages):
        if unknown := set(message) - allowed:
            raise Refused(400, f"messages[{index}]: {sorted(unknown)[0]!r} is not offered", param="messages")
        if message.get("role") == "developer":
            message["role"] = "system"
    found = conversation(messages, files=False, limits=settings.media)
    limits = settings.requests
    characters = sum(len(message.text) for message in found)
    if characters > limits.text:
        raise Refused(413, f"the messages have {characters:,} characters, the limit is {limits.text:,}")
    media = sum(len(message.media) for message in found)
    if media > limits.media:
        raise Refused(413, f"the messages hold {media} media, the limit is {limits.media}")
    if not found[-1].media and not found[-1].text.strip():
        raise Refused(400, "the last message is empty; it should hold what is asked", param="messages")
    return found


async def whole(answering: Answering) -> dict[str, Any]:
    """All answers in one object.  Raises the error that any of them ended with."""
    found = [Answer() for _ in range(answering.ticket.request.n)]
    with answering.ticket as ticket:
        async for event in ticket:
            _take(found[event.answer], event, answering.model)
    return {
        "id": answering.id,
        "object": "chat.completion",
        "created": answering.created,
        "model": answering.model.name,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": {"content": answer.logprobs, "refusal": None} if answer.logprobs else None,
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(found)
        ],
        "usage": usage(answering, sum(answer.tokens for answer in found)),
    }


async def stream(answering: Answering, include_usage: bool) -> AsyncIterator[str]:
    """The same as server-sent events, ending with [DONE]; an error in the middle is an event of its own."""
    head = {
        "id": answering.id,
        "object": "chat.completion.chunk",
        "created": answering.created,
        "model": answering.model.name,
    }
    none: dict[str, Any] = {"usage": None} if include_usage else {}
    written = 0
    try:
        with answering.ticket as ticket:
            for index in range(ticket.request.n):
                yield sse({**head, "choices": [_choice(index, {"role": "assistant", "content": ""})], **none})
            async for event in ticket:
                answer = Answer()
                _take(answer, event, answering.model)
                written += answer.tokens
                if answer.text or answer.logprobs:
                    choice = _choice(event.answer, {"content": answer.text}, logprobs=answer.logprobs)
                    yield sse({**head, "choices": [choice], **none})
                if answer.finish_reason:
                    choice = _choice(event.answer, {}, answer.finish_reason)
                    yield sse({**head, "choices": [choice], **none})
    except Exception as problem:
        yield sse(refusal(problem).body)
        return
    if include_usage:
        yield sse({**head, "choices": [], "usage": usage(answering, written)})
    yield "data: [DONE]\n\n"


def usage(answering: Answering, written: int) -> dict[str, Any]:
    """The numbers of tokens: placeholders of media count as the prompt's."""
    prompt = len(answering.ticket.request.encoded)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _take(answer: Answer, event: Event, model: ServedModel) -> None:
    """Add what happened to an answer.  Raises the error it ended with."""
    if event.error is not None:
        raise event.error
    if event.piece is not None:
        answer.text += event.piece.text
        answer.tokens += 1
        if event.piece.logprob is not None:
            answer.logprobs.append(_logprob(event.piece.logprob, model))
    if event.finish_reason is not None:
        answer.finish_reason = REASONS.get(event.finish_reason, event.finish_reason)


def _logprob(found: TokenLogprob, model: ServedModel) -> dict[str, Any]:
    def one(index: int, logprob: float) -> dict[str, Any]:
        text = model.model.processor.tokenizer.decode([index], skip_special=False)
        # JSON has no infinity; OpenAI writes -9999 for what is impossible.
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8"))}

    return {**one(found.id, found.logprob), "top_logprobs": [one(*each) for each in found.top]}


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    kept = {"content": logprobs, "refusal": None} if logprobs else None
    return {"index": index, "delta": delta, "logprobs": kept, "finish_reason": reason}


def sse(value: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n"
