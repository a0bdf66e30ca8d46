"""POST /v1/completions: texts that are continued as they are, without a chat format."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from polymodal.engine.request import Event, Request
from polymodal.generation.structured import Rule
from polymodal.serve.chat import REASONS, sse, usage
from polymodal.serve.errors import Refused, refusal
from polymodal.serve.metrics import Metrics
from polymodal.serve.models import ServedModel
from polymodal.serve.options import answers, asks_for_form, grammar_of, sampling_options
from polymodal.serve.schemas import Completion
from polymodal.serve.settings import Settings
from polymodal.serve.token_texts import texts_of
from polymodal.serve.worker import Ticket


@dataclass(kw_only=True)
class Continuing:
    """A request that was accepted: one engine request for each of its prompts."""

    model: ServedModel
    tickets: list[Ticket]
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompt_tokens(self) -> int:
        return sum(len(ticket.request.encoded) for ticket in self.tickets)


async def accept(
    body: Completion, model: ServedModel, settings: Settings, metrics: Metrics, tenant: str = ""
) -> Continuing:
    """Everything that can be refused before the first token.  Raises Refused, PolymodalError."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    limits = settings.requests
    if (characters := sum(map(len, prompts))) > limits.text:
        raise Refused(413, f"the prompts have {characters:,} characters, the limit is {limits.text:,}")
    n = answers(body, limits)
    if n * len(prompts) > limits.n * 8:
        raise Refused(400, f"{len(prompts)} prompts with {n} answers each; at most {limits.n * 8} together", param="n")
    # The OpenAI interface continues by 16 tokens when no number is named.
    most = 16 if body.max_tokens is None else body.max_tokens
    options = sampling_options(body, model, limits, max_tokens=most, logprobs=body.logprobs)
    rows = [await model.encode_text(prompt) for prompt in prompts]
    allowed: list[tuple[Rule, ...]] = [()] * len(rows)
    if asks_for_form(body, None):
        allowed = [await model.rules(worker, lambda forms: grammar_of(body, None, forms), n) for worker, _ in rows]
    with ExitStack() as stack:
        tickets = []
        for (worker, encoded), rules in zip(rows, allowed, strict=True):
            request = Request(
                encoded=encoded, options=options, n=n, allowed=rules, seconds=limits.seconds, tenant=tenant
            )
            ticket = stack.enter_context(worker.submit(request))
            tickets.append(metrics.watch(model.name, ticket))
        stack.pop_all()  # all were taken; whoever reads the answers ends them
    return Continuing(model=model, tickets=tickets, id=f"cmpl-{uuid.uuid4().hex}")


@dataclass
class _Text:
    text: str = ""
    tokens: int = 0
    reason: str | None = None
    names: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def take(self, event: Event, model: ServedModel) -> None:
        """Add what happened.  Raises the error it ended with."""
        if event.error is not None:
            raise event.error
        if event.piece is not None:
            self.offsets.append(len(self.text))
            self.text += event.piece.text
            self.tokens += 1
            if event.piece.logprob is not None:
                (text, logprob), *likeliest = texts_of(event.piece.logprob, model)
                self.names.append(text)
                self.logprobs.append(logprob)
                self.top.append(dict(likeliest))
        if event.finish_reason is not None:
            self.reason = REASONS.get(event.finish_reason, event.finish_reason)

    def choice(self, index: int) -> dict[str, Any]:
        kept = {
            "tokens": self.names,
            "token_logprobs": self.logprobs,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        }
        return {
            "index": index,
            "text": self.text,
            "logprobs": kept if self.names else None,
            "finish_reason": self.reason,
        }


async def whole(continuing: Continuing) -> dict[str, Any]:
    """All texts in one object, the answers to the first prompt first.  Raises the error that any ended with."""

    with ExitStack() as stack:
        texts = []
        for ticket in [stack.enter_context(each) for each in continuing.tickets]:
            found = [_Text() for _ in range(ticket.request.n)]
            async for event in ticket:
                found[event.answer].take(event, continuing.model)
            texts += found
    return {
        **_head(continuing),
        "choices": [text.choice(index) for index, text in enumerate(texts)],
        "usage": usage(continuing.prompt_tokens, sum(text.tokens for text in texts)),
    }


async def stream(continuing: Continuing, include_usage: bool) -> AsyncIterator[str]:
    """The same as server-sent events, the texts of the first prompt first; all are written at once."""
    written, first = 0, 0
    try:
        with ExitStack() as stack:
            for ticket in [stack.enter_context(each) for each in continuing.tickets]:
                async for event in ticket:
                    text = _Text()
                    text.take(event, continuing.model)
                    written += text.tokens
                    if text.text or text.names or text.reason:
                        yield sse({**_head(continuing), "choices": [text.choice(first + event.answer)]})
                first += ticket.request.n
    except Exception as problem:
        yield sse(refusal(problem).body)
        return
    if include_usage:
        yield sse({**_head(continuing), "choices": [], "usage": usage(continuing.prompt_tokens, written)})
    yield "data: [DONE]\n\n"


def _head(continuing: Continuing) -> dict[str, Any]:
    return {
        "id": continuing.id,
        "object": "text_completion",
        "created": continuing.created,
        "model": continuing.model.name,
    }
