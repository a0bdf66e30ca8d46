"""POST /v1/chat/completions: a conversation with media in, answers out, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from polymodal.data.messages import Message, conversation
from polymodal.engine.request import Event, Request
from polymodal.generation.output import TokenLogprob
from polymodal.generation.structured import Rule
from polymodal.serve.errors import Refused, refusal
from polymodal.serve.metrics import Metrics
from polymodal.serve.models import ServedModel
from polymodal.serve.options import answers, asks_for_form, grammar_of, sampling_options
from polymodal.serve.remote import fetch
from polymodal.serve.schemas import ChatCompletion
from polymodal.serve.settings import Settings
from polymodal.serve.token_texts import texts_of
from polymodal.serve.tools import Tools, calls_as_text
from polymodal.serve.worker import Ticket

MESSAGE_FIELDS = {"role", "content", "name", "refusal", "audio", "tool_calls", "tool_call_id"}
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
    tools: Tools | None
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompt_tokens(self) -> int:
        return len(self.ticket.request.encoded)


async def accept(
    body: ChatCompletion, model: ServedModel, settings: Settings, metrics: Metrics, tenant: str = ""
) -> Answering:
    """Everything that can be refused before the first token.  Raises Refused, PolymodalError."""
    limits = settings.requests
    tools = Tools.read(body.tools, body.tool_choice)
    messages = read_messages(await fetched(body.messages, settings), settings)
    if tools is not None:
        messages = tools.described(messages)
    n = answers(body, limits)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    asked = (body.top_logprobs or 0) if body.logprobs else None
    options = sampling_options(body, model, limits, max_tokens=most, logprobs=asked)
    worker, encoded = await model.encode(messages)
    rules: tuple[Rule, ...] = ()
    if tools is not None and tools.forced:
        rules = await model.rules(worker, tools.grammar, n)
    elif asks_for_form(body, body.response_format):
        rules = await model.rules(worker, lambda forms: grammar_of(body, body.response_format, forms), n)
    ticket = worker.submit(
        Request(encoded=encoded, options=options, n=n, allowed=rules, seconds=limits.seconds, tenant=tenant)
    )
    return Answering(
        model=model, ticket=metrics.watch(model.name, ticket), tools=tools, id=f"chatcmpl-{uuid.uuid4().hex}"
    )


async def fetched(messages: Sequence[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """The messages with media of allowed hosts in place of their URLs.  Raises Refused."""
    found, left = [], settings.requests.media
    for message in messages:
        content = message.get("content")
        parts = []
        for part in content if settings.media_hosts and isinstance(content, list) else ():
            kind = str(part.get("type")) if isinstance(part, dict) else ""
            holder = part.get(kind) if kind in ("image_url", "video_url") else None
            url = holder.get("url") if isinstance(holder, dict) else None
            if isinstance(url, str) and url[:5].lower() == "https":
                if (left := left - 1) < 0:
                    raise Refused(413, f"the messages hold more than {settings.requests.media} media, the limit")
                data = await asyncio.to_thread(fetch, url, settings.media_hosts, settings.media.bytes)
                name = kind.removesuffix("_url")
                part = {"type": name, name: data}
            parts.append(part)
        found.append({**message, "content": parts} if parts else message)
    return found


def read_messages(messages: Sequence[dict[str, Any]], settings: Settings) -> tuple[Message, ...]:
    """A client's messages as typed ones; files of this machine are not open to them.  Raises Refused, PromptError."""
    read = []
    for index, message in enumerate(messages):
        if unknown := set(message) - MESSAGE_FIELDS:
            raise Refused(400, f"messages[{index}]: {sorted(unknown)[0]!r} is not offered", param="messages")
        role = "system" if message.get("role") == "developer" else message.get("role")
        read.append(calls_as_text({"content": None, **message, "role": role}))
    found = conversation(read, files=False, limits=settings.media)
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
                **_message(answer, answering.tools),
                "logprobs": {"content": answer.logprobs, "refusal": None} if answer.logprobs else None,
            }
            for index, answer in enumerate(found)
        ],
        "usage": usage(answering.prompt_tokens, sum(answer.tokens for answer in found)),
    }


def _message(answer: Answer, tools: Tools | None) -> dict[str, Any]:
    """The message of an answer, and why it ended."""
    text, calls = (answer.text, []) if tools is None else tools.calls(answer.text)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if not calls:
        return {"message": message, "finish_reason": answer.finish_reason}
    return {"message": {**message, "tool_calls": calls}, "finish_reason": "tool_calls"}


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
    held: dict[int, Answer] = {}  # with tools, an answer is shown when it is whole: it may be a call
    try:
        with answering.ticket as ticket:
            for index in range(ticket.request.n):
                yield sse({**head, "choices": [_choice(index, {"role": "assistant", "content": ""})], **none})
            async for event in ticket:
                answer = Answer() if answering.tools is None else held.setdefault(event.answer, Answer())
                written += event.piece is not None
                _take(answer, event, answering.model)
                for choice in _choices(event.answer, answer, answering.tools):
                    yield sse({**head, "choices": [choice], **none})
    except Exception as problem:
        yield sse(refusal(problem).body)
        return
    if include_usage:
        yield sse({**head, "choices": [], "usage": usage(answering.prompt_tokens, written)})
    yield "data: [DONE]\n\n"


def _choices(index: int, answer: Answer, tools: Tools | None) -> Iterator[dict[str, Any]]:
    """What is shown of an answer after an event."""
    if tools is not None and answer.finish_reason is None:
        return
    reason = answer.finish_reason
    delta: dict[str, Any] = {"content": answer.text}
    if tools is not None:
        whole = _message(answer, tools)
        reason, delta = whole["finish_reason"], {"content": whole["message"]["content"]}
        if calls := whole["message"].get("tool_calls"):
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
    if answer.text or answer.logprobs:
        yield _choice(index, delta, logprobs=answer.logprobs)
    if reason:
        yield _choice(index, {}, reason)


def usage(prompt: int, written: int) -> dict[str, Any]:
    """The numbers of tokens: placeholders of media count as the prompt's."""
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
    written, *likeliest = (
        {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}
        for text, logprob in texts_of(found, model)
    )
    return {**written, "top_logprobs": likeliest}


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    kept = {"content": logprobs, "refusal": None} if logprobs else None
    return {"index": index, "delta": delta, "logprobs": kept, "finish_reason": reason}


def sse(value: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n"
