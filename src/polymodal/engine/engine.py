"""Many conversations with one model at once: requests join and leave a running batch between two tokens.

    add(request) -> queue -> prefill, some tokens a step -> first token -> rows of the running batch -> events
    step() does one round: ended requests leave, prompts go on within the chunk, every running row writes one token

Order of service is order of arrival: the prompt that came first is prefilled first, beside the rows that write, and a
step's work is bounded by `EngineLimits`, so that no request waits for another's long prompt.  What was computed for a
conversation serves later ones that begin alike (`prefix_cache.py`), and media are encoded once (`FeatureCache`).
Answers equal those of `generate`: a row reads what it would read alone, and chooses by its own options and random
numbers.  A model that gives every batch a context (cross-attention, encoder-decoders) decodes each request beside the
others, not in one batch with them.
`step` is for one thread at a time; `add` and `abort` may come from others.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import torch

from polymodal.data.messages import Message
from polymodal.data.processor import Encoded, Processor
from polymodal.engine.batch import Chooser, OwnBatch, Row, SharedBatch
from polymodal.engine.prefix_cache import PrefixCache
from polymodal.engine.request import EngineLimits, Event, QueueFull, Request
from polymodal.errors import PolymodalError
from polymodal.generation.chat import check_ids, encode
from polymodal.generation.decode_state import DecodeState, Prefill, max_new_tokens, prefill_batch, repeat_rows
from polymodal.generation.feature_cache import FeatureCache, PreparedMedia
from polymodal.generation.output import DecodingConstraints, Generation, Piece, Writer, collect, repeat_options
from polymodal.generation.prefill import collate_left, prefill_after
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.protocols import CountsNextPositions
from polymodal.nn.watch import WeightsWatch


@dataclass(kw_only=True, eq=False)
class _Job:
    """A request on its way; left: answers that have not ended."""

    id: int
    request: Request
    left: int
    limit: int = 0
    until: float | None = None
    prefill: Prefill | None = None
    rows: list[Row] = field(default_factory=list)
    stale: bool = False  # the weights changed while it was answered: what it computed serves nobody else


class Engine:
    """Answers requests to `model`, `limits.rows` at a time.

    ends: ids that end an answer beside the tokenizer's end token.  features, prepared: shared with others that use the
    same model, or its own.
    """

    def __init__(
        self,
        model: MultimodalLM,
        processor: Processor,
        *,
        limits: EngineLimits | None = None,
        ends: Collection[int] = (),
        features: FeatureCache | None = None,
        prepared: PreparedMedia | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.limits = limits or EngineLimits()
        plain = DecodingConstraints(tokenizer=processor.tokenizer)
        self.constraints = replace(plain, eos=plain.ends.union(ends))
        self.features = FeatureCache() if features is None else features
        self.prepared = PreparedMedia() if prepared is None else prepared
        self.prefixes = PrefixCache(self.limits.prefix_bytes)
        self._banned = model.placeholders_in_vocabulary()
        self._waiting: deque[_Job] = deque()
        self._prefilling: _Job | None = None
        self._shared = SharedBatch(model)
        self._own: list[OwnBatch] = []
        self._jobs: dict[int, _Job] = {}
        self._aborted: set[int] = set()
        self._numbers = itertools.count()
        self._watch = WeightsWatch(model)
        self._lock = threading.Lock()
        # Their batches have something of their own, which no row of another request can share.
        self._shares = not (
            model.is_encoder_decoder
            or model.context is not None
            or isinstance(model.prepare_inputs, CountsNextPositions)
        )

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """A conversation as the row that asks for its answer.  Raises PromptError for one that is too long."""
        encoded = encode(self.processor, messages, self.prepared)
        self.check(encoded.input_ids)
        return encoded

    def check(self, ids: Sequence[int]) -> None:
        """Raises PromptError for an id that the model has no embedding for."""
        check_ids(self.model, self.processor, ids)

    def add(self, request: Request) -> int:
        """Queue a request; returns its number.  Raises PromptError where its prompt fills the context, QueueFull."""
        limit = max_new_tokens(self.model, [len(request.encoded)], [request.options.max_tokens])[0]
        until = None if request.seconds is None else time.monotonic() + request.seconds
        with self._lock:
            if len(self._waiting) >= self.limits.queue:
                raise QueueFull(f"the queue is full (EngineLimits.queue is {self.limits.queue}); try again later")
            job = _Job(id=next(self._numbers), request=request, left=request.n, limit=limit, until=until)
            self._jobs[job.id] = job
            self._waiting.append(job)
        return job.id

    def abort(self, number: int) -> bool:
        """End a request at the next step, which frees its rows; False when it has ended already."""
        with self._lock:
            if number not in self._jobs:
                return False
            self._aborted.add(number)
            return True

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._jobs)

    @property
    def waiting(self) -> int:
        """Requests of which nothing was computed yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._shared.rows) + sum(len(batch.rows) for batch in self._own)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, of running rows and of prefixes, and of features and prepared media."""
        own = sum(batch.state.cache.nbytes for batch in self._own)
        return self._shared.cache.nbytes + own + self.prefixes.nbytes + self.features.nbytes + self.prepared.nbytes

    def drop_all(self) -> None:
        """Forget all requests and whatever was computed (after a failure in the middle of a step)."""
        with self._lock:
            self._jobs.clear()
            self._waiting.clear()
            self._aborted.clear()
        self._prefilling, self._own, self._shared = None, [], SharedBatch(self.model)
        self.clear_caches()

    def clear_caches(self) -> None:
        """Forget what finished conversations and media left behind."""
        self.prefixes.clear()
        self.features.clear()
        self.prepared.clear()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One round; what happened, in order.  An empty list without any request."""
        events = self._end_overdue()
        # Rows that began to write in this round have their first token from their prompt: they go on in the next.
        batches: list[SharedBatch | OwnBatch] = [*self._own, *([self._shared] if self._shared.rows else [])]
        written = [(batch, list(batch.rows), batch.step()) for batch in batches]
        for batch, rows, logits in written:
            for row, piece in zip(rows, batch.chooser.choose(rows, logits), strict=True):
                events.append(self._accept(row, piece, batch))
        self._own = [batch for batch in self._own if batch.rows]
        return [*events, *self._prefill(self.limits.mixed_chunk if batches else self.limits.chunk)]

    def run(self, requests: Sequence[Request]) -> list[list[Generation]]:
        """The answers to requests, in their order; for whoever has them all at once and nothing else to serve.

        Raises the first error of any of them, after all have ended.
        """
        todo = deque(enumerate(requests))
        index_of: dict[int, int] = {}
        pieces: dict[tuple[int, int], list[Piece]] = {}
        errors = []
        while todo or self.busy:
            while todo and self.waiting < self.limits.queue:
                index, request = todo.popleft()
                index_of[self.add(request)] = index
            for event in self.step():
                if event.request in index_of and event.piece is not None:
                    pieces.setdefault((index_of[event.request], event.answer), []).append(event.piece)
                if event.request in index_of and event.error is not None:
                    errors.append(event.error)
        if errors:
            raise errors[0]
        return [
            [collect(pieces[index, answer], len(each.encoded), self.constraints) for answer in range(each.n)]
            for index, each in enumerate(requests)
        ]

    def _end_overdue(self) -> list[Event]:
        """End what was aborted and what has had its time."""
        now = time.monotonic()
        with self._lock:
            aborted, self._aborted = self._aborted, set()
            late = {job.id for job in self._jobs.values() if job.until is not None and job.until <= now}
            gone = [self._jobs[number] for number in sorted(aborted | late) if number in self._jobs]
        return [
            event for job in gone for event in self._end(job, "abort" if job.id in aborted else "timeout")
        ]  # fmt: skip

    def _end(self, job: _Job, reason: str, error: Exception | None = None) -> list[Event]:
        """End all answers of a request that go on still."""
        with self._lock:
            self._jobs.pop(job.id, None)
            if job in self._waiting:
                self._waiting.remove(job)
        if self._prefilling is job:
            self._prefilling = None
        going = [row for row in job.rows if row.writer.finish_reason is None]
        for row in going:
            row.writer.finish_reason = reason
            self._batch_of(row).leave(row, False)
        self._own = [batch for batch in self._own if batch.rows]
        answers = [row.answer for row in going] if job.rows else list(range(job.request.n))
        return [
            Event(request=job.id, answer=answer, finish_reason=reason, error=error, done=answer == answers[-1])
            for answer in answers
        ]

    def _batch_of(self, row: Row) -> SharedBatch | OwnBatch:
        return next((batch for batch in self._own if row in batch.rows), self._shared)

    def _accept(self, row: Row, piece: Piece | PolymodalError, batch: SharedBatch | OwnBatch | None) -> Event:
        """A row's next piece as an event; the row leaves its batch when it has ended."""
        job = self._jobs[row.request]
        if isinstance(piece, PolymodalError):
            row.writer.finish_reason = "error"
        ended = row.writer.finish_reason
        if ended is not None and batch is not None:
            keep = ended != "error" and not job.stale and job.request.n == 1 and self.limits.prefix_bytes > 0
            cache = batch.leave(row, keep)
            if cache is not None:
                self.prefixes.put(job.request.encoded, row.writer.ids, cache)
        job.left -= ended is not None
        if not job.left:
            with self._lock:
                self._jobs.pop(job.id, None)
        error = piece if isinstance(piece, PolymodalError) else None
        return Event(
            request=job.id,
            answer=row.answer,
            piece=None if isinstance(piece, PolymodalError) else piece,
            finish_reason=ended,
            error=error,
            done=not job.left,
        )

    def _prefill(self, budget: int) -> list[Event]:
        """Prompts in order of arrival, up to `budget` tokens; those that are through write their first token."""
        events: list[Event] = []
        while budget > 0:
            job = self._prefilling or self._next()
            if job is None:
                break
            self._prefilling = job
            try:
                if job.prefill is None:
                    job.prefill = self._begin(job)
                before = job.prefill.remaining
                if before:
                    job.prefill.advance(budget)
                budget -= before - job.prefill.remaining
                if job.prefill.remaining:
                    break
                self._prefilling = None
                events += self._first_tokens(job, job.prefill.state)
                budget -= 1  # also a prompt that was computed already takes a step's time
            except PolymodalError as problem:
                events += self._end(job, "error", problem)
            except Exception as problem:
                # Nobody foresaw it, but it happened in what this request has for itself.
                if job.rows:
                    raise
                events += self._end(job, "error", problem)
        return events

    def _next(self) -> _Job | None:
        """The request that waits longest, if there are rows and memory for it."""
        with self._lock:
            if not self._waiting:
                return None
            job = self._waiting[0]
            if self.running:
                rows = self.running + job.request.n
                longest = max(self._needs(each) for each in self._jobs.values() if each is job or each.rows)
                if rows > self.limits.rows or rows * longest * self._shared.cache.token_bytes > self.limits.cache_bytes:
                    return None
            return self._waiting.popleft()

    def _needs(self, job: _Job) -> int:
        """Tokens that one row of a request may come to."""
        return len(job.request.encoded) + job.limit

    def _check_weights(self) -> None:
        """Drop what weights computed that are not those of the last look."""
        if self._watch.changed():
            self.prefixes.clear()
            self.features.clear()
            with self._lock:
                for job in self._jobs.values():
                    job.stale = job.stale or bool(job.rows)

    def _begin(self, job: _Job) -> Prefill:
        """The prompt of a request behind what is known of it."""
        encoded = job.request.encoded
        self._check_weights()
        if self.model.is_encoder_decoder:
            features = self.features.features(self.model, self.processor, encoded.media_spans)
            batch = collate_left(self.processor, [encoded])
            state = prefill_batch(self.model, batch, [job.limit], features=features)
            return Prefill(state=state, embeds=torch.empty(1, 0, 0), position_ids=state.position)
        # A row that joins others needs space for its prompt alone.
        capacity = len(encoded) if self._shares else self._needs(job)
        cache = self.prefixes.begin(encoded, self.model.backbone.new_cache, capacity)
        return prefill_after(self.model, self.processor, encoded, cache, self.features)

    def _first_tokens(self, job: _Job, state: DecodeState) -> list[Event]:
        """The first token of every answer of a request; those that go on join a batch."""
        request = job.request
        job.prefill = None
        for answer, options in enumerate(repeat_options([request.options], request.n)):
            writer = Writer(row=answer, options=options, limit=job.limit, constraints=self.constraints)
            allowed = request.allowed[answer] if request.allowed else None
            row = Row(
                request=job.id,
                answer=answer,
                writer=writer,
                prompt=request.encoded.input_ids,
                allowed=allowed,
                banned=self._banned,
            )
            job.rows.append(row)
        pieces = Chooser().choose(job.rows, state.logits.expand(request.n, -1))
        if self._shares:
            if not job.stale and not any(isinstance(piece, PolymodalError) for piece in pieces):
                # Requests that begin alike need not wait for the answer.
                self.prefixes.put(request.encoded, (), state.cache)
            for row, piece in zip(job.rows, pieces, strict=True):
                if row.writer.finish_reason is None and not isinstance(piece, PolymodalError):
                    self._shared.join(row, state)
        else:
            self._own.append(OwnBatch(job.rows, state if request.n == 1 else repeat_rows(state, request.n, job.limit)))
        events = []
        for row, piece in zip(job.rows, pieces, strict=True):
            failed = isinstance(piece, PolymodalError) or row.writer.finish_reason is not None
            own = self._own[-1] if not self._shares else None
            events.append(self._accept(row, piece, own if failed else None))
        self._own = [batch for batch in self._own if batch.rows]
        return events
