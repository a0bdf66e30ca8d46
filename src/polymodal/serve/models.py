"""The models that a server offers: which engine answers, and what else they do, off the event loop.

name -> ServedModel -> encode (a thread) -> Request -> EngineWorker -> events
                    -> vectors (of all that wait together), transcribe (one at a time, in a thread)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

import polymodal as pm
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message, user
from polymodal.data.processor import Encoded
from polymodal.engine.engine import Engine
from polymodal.engine.vectors import VectorQueue
from polymodal.errors import PromptError, UnknownName
from polymodal.generation.structured import Rule, Structured
from polymodal.serve.isolation import Decoders, isolated
from polymodal.serve.settings import Settings
from polymodal.serve.worker import EngineWorker


class ServedModel:
    """A loaded model with the engines that answer for it; made when they are first asked."""

    def __init__(self, name: str, model: pm.Model, settings: Settings) -> None:
        self.name = name
        self.model = model
        self.created = int(time.time())
        self.decoders = Decoders()
        self._settings = settings
        self._workers: dict[int, EngineWorker] = {}
        self._forms: dict[int, Structured] = {}
        self._lock = threading.Lock()
        self.one = asyncio.Lock()
        self._vectors = VectorQueue(model.embed)
        self._dimensions: int | None = None

    @property
    def engines(self) -> list[Engine]:
        """Those that have been asked."""
        return [worker.engine for worker in self._workers.values()]

    async def encode(self, messages: Sequence[Message]) -> tuple[EngineWorker, Encoded]:
        """A conversation as a row of the engine that answers it; pictures are decoded here, the rest in a child."""

        def work() -> tuple[EngineWorker, Encoded]:
            media = [item for message in messages for item in message.media]
            self.model.require("chat")
            self.model.require_input(*media)
            worker = self._worker(bool(media))
            return worker, worker.engine.encode([isolated(message, self.decoders) for message in messages])

        return await asyncio.to_thread(work)

    async def encode_text(self, text: str) -> tuple[EngineWorker, Encoded]:
        """A text to be continued as it is, after the token that begins the model's texts."""

        def work() -> tuple[EngineWorker, Encoded]:
            self.model.require("chat")
            worker = self._worker(False)
            tokenizer = worker.engine.processor.tokenizer
            first = worker.engine.encode((user("a"),)).input_ids[:1]
            ids = [*(first if first == [tokenizer.bos_id] else []), *tokenizer.encode(text)]
            if not ids:
                raise PromptError("the prompt is empty")
            worker.engine.check(ids)
            return worker, Encoded(input_ids=ids, loss_mask=[False] * len(ids), token_types=[0] * len(ids))

        return await asyncio.to_thread(work)

    async def vectors(self, items: Sequence[Text | Media]) -> Tensor:
        """Vectors [N, D] of items; those of several requests that wait are computed together."""
        rows = await asyncio.to_thread(self._vectors, items)
        self._dimensions = rows.shape[1]
        return rows

    async def dimensions(self, item: Text | Media) -> int:
        """Of a vector; one item is enough to find out."""
        return (await self.vectors([item])).shape[1] if self._dimensions is None else self._dimensions

    async def alone(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """A call of the model in a thread, one at a time: embeddings, transcription."""
        async with self.one:
            return await asyncio.to_thread(call, *arguments, **keywords)

    def close(self) -> None:
        """Stop the engines and the children."""
        self.decoders.close()
        for worker in self._workers.values():
            worker.close()

    async def rules(self, worker: EngineWorker, make: Callable[[Structured], str | None], n: int) -> tuple[Rule, ...]:
        """The rules of n answers that have the form `make` asks for; reading a form is work for a thread."""

        def work() -> tuple[Rule, ...]:
            engine = worker.engine
            with self._lock:
                if id(engine) not in self._forms:
                    size = engine.model.backbone.config.vocab_size
                    self._forms[id(engine)] = Structured(engine.processor.tokenizer, size, engine.constraints.ends)
                forms = self._forms[id(engine)]
            grammar = make(forms)
            return () if grammar is None else forms.rules(grammar, n)

        return await asyncio.to_thread(work)

    def _worker(self, media: bool) -> EngineWorker:
        module = self.model.module_for(media)
        own = self.model.client(module).engine
        with self._lock:
            if id(module) not in self._workers:
                engine = Engine(
                    module,
                    own.processor,
                    limits=self._settings.engine,
                    ends=own.constraints.ends,
                    features=own.features,
                    prepared=own.prepared,
                    compile=self._settings.compile,
                )
                self._workers[id(module)] = EngineWorker(engine)
            return self._workers[id(module)]


def find(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """The model of that name.  Raises UnknownName."""
    if name not in models:
        raise UnknownName(f"the model {name[:80]!r} is not served here; {', '.join(models)} is")
    return models[name]
