"""The application: routes, keys, limits on bodies, errors in OpenAI's shape.

create_app({"mini": ServedModel}, Settings) -> an ASGI application, for uvicorn or any other server
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from polymodal import __version__
from polymodal.serve import chat, completions
from polymodal.serve.bodies import StrictRoute
from polymodal.serve.errors import Refused, refusal
from polymodal.serve.grounding import add_grounding
from polymodal.serve.guard import Guard, tenant
from polymodal.serve.images import add_images
from polymodal.serve.metrics import Metrics
from polymodal.serve.models import ServedModel, find
from polymodal.serve.schemas import ChatCompletion, Completion, Embeddings, Sampling
from polymodal.serve.settings import Settings
from polymodal.serve.site import PUBLIC, add_site
from polymodal.serve.speech import ServedSpeaker, add_speech
from polymodal.serve.transcription import add_transcription
from polymodal.serve.vectors import embeddings
from polymodal.serve.worker import Ticket

STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def create_app(
    models: Mapping[str, ServedModel], settings: Settings, speakers: Mapping[str, ServedSpeaker] | None = None
) -> FastAPI:
    """The application that serves `models`, and `speakers`, which say texts."""
    speakers = speakers or {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for close in [each.close for each in models.values()] + [each.close for each in speakers.values()]:
            await asyncio.to_thread(close)

    app = FastAPI(title="polymodal", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = StrictRoute
    metrics = Metrics(models)
    app.add_middleware(Guard, settings=settings, public=PUBLIC, answered=metrics.request)
    _add_errors(app)
    _add_models(app, models, speakers)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether requests are taken; the models are loaded before the port is open."""
        return {"status": "ready"}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    add_site(app)
    _add_generation(app, models, settings, metrics)
    _add_perception(app, models, settings)
    add_grounding(app, models, settings)
    add_images(app, models, settings)
    add_speech(app, speakers, settings, STREAM)
    return app


def _add_generation(app: FastAPI, models: Mapping[str, ServedModel], settings: Settings, metrics: Metrics) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatCompletion, request: Request) -> Any:
        """The answer to a conversation with media; as server-sent events with `stream`."""
        own = tenant(request, body.cache_salt)
        answering = await chat.accept(body, find(models, body.model), settings, metrics, own)
        if not body.stream:
            return await unless_gone(request, chat.whole(answering))
        return Events(chat.stream(answering, _wants_usage(body)), [answering.ticket])

    @app.post("/v1/completions")
    async def text_completions(body: Completion, request: Request) -> Any:
        """Texts continued as they are."""
        own = tenant(request, body.cache_salt)
        continuing = await completions.accept(body, find(models, body.model), settings, metrics, own)
        if not body.stream:
            return await unless_gone(request, completions.whole(continuing))
        return Events(completions.stream(continuing, _wants_usage(body)), continuing.tickets)


def _add_perception(app: FastAPI, models: Mapping[str, ServedModel], settings: Settings) -> None:
    @app.post("/v1/embeddings")
    async def embed(body: Embeddings) -> dict[str, Any]:
        """Texts, pictures and sound as vectors of length 1."""
        return await embeddings(body, find(models, body.model), settings)

    add_transcription(app, models, settings, STREAM)


def _wants_usage(body: Sampling) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


class Events(StreamingResponse):
    """Server-sent events of requests to an engine, which end with the connection, even before their first event."""

    def __init__(self, lines: AsyncIterator[str], tickets: Sequence[Ticket] = ()) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=STREAM)
        self._tickets = tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for ticket in self._tickets:
                ticket.close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, which is cancelled when the client hangs up."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "the client hung up")
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


def _add_models(app: FastAPI, models: Mapping[str, ServedModel], speakers: Mapping[str, ServedSpeaker]) -> None:
    def card(model: ServedModel) -> dict[str, Any]:
        loaded = model.model
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "polymodal",
            "inputs": list(loaded.system.inputs),
            "can": [verb for verb in loaded.can if verb != "draw" or loaded.paints],
        }

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """What is served, and what each takes and does."""
        cards = [card(model) for model in models.values()]
        return {"object": "list", "data": [*cards, *(each.card for each in speakers.values())]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """One of them."""
        if name in speakers:
            return speakers[name].card
        return card(find(models, name))


def _add_errors(app: FastAPI) -> None:
    """Every error in one shape."""

    def answer(problem: BaseException) -> JSONResponse:
        found = refusal(problem)
        return JSONResponse(found.body, status_code=found.status, headers=found.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        place = ".".join(str(each) for each in first["loc"][1:] if isinstance(each, int | str))[:100]
        return answer(Refused(400, f"{place or 'body'}: {first['msg']}"[:500], param=place or None))

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> JSONResponse:
        return answer(Refused(problem.status_code, str(problem.detail)[:500]))

    @app.exception_handler(Exception)
    async def other(_: Request, problem: Exception) -> JSONResponse:
        return answer(problem)
