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
from dataclasses import replace

import torch

from polymodal.data.messages import Message
from polymodal.data.processor import Encoded, Processor
from polymodal.engine.batch import BeamBatch, Chooser, OwnBatch, Row, SharedBatch, row_of
from polymodal.engine.compiled import CompiledStep
from polymodal.engine.prefix_cache import IdleLimits, PrefixCache
from polymodal.engine.reading import Job, Reader, Reading
from polymodal.engine.request import EngineLimits, Event, QueueFull, Request
from polymodal.errors import ConfigError, PolymodalError
from polymodal.generation.decode_state import max_new_tokens, repeat_rows
from polymodal.generation.feature_cache import FeatureCache, Measure, PreparedMedia, unmeasured
from polymodal.generation.output import DecodingConstraints, Generation, Piece, Writer, collect, repeat_options
from polymodal.generation.prompts import check_ids, encode
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.protocols import CountsNextPositions, rule_of
from polymodal.nn.watch import WeightsWatch

Batch = SharedBatch | OwnBatch | BeamBatch


class Engine:
    """Answers requests to `model`, `limits.rows` at a time.

    ends: ids that end an answer beside the tokenizer's end token.  features, prepared: shared with others that use the
    same model, or its own.  compile: steps of the running batch as graphs with static shapes (`compiled.py`); the first
    of each shape takes the time to compile it.
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
        compile: bool = False,
    ) -> None:
        self.model = model
        self.processor = processor
        self.limits = limits or EngineLimits()
        # Where a mask of the batch marks the placeholders, the processor's own ids may be any.
        by_id = {(name, index) for name, index in model.placeholders.items() if not model.inputs[name].placeholder_mask}
        if wrong := by_id - set(processor.placeholders.items()):
            raise ConfigError(f"the processor does not use the model's placeholders {sorted(wrong)}")
        plain = DecodingConstraints(tokenizer=processor.tokenizer)
        self.constraints = replace(plain, eos=plain.ends.union(ends))
        self.features = FeatureCache() if features is None else features
        self.prepared = PreparedMedia() if prepared is None else prepared
        self.prefixes = PrefixCache(IdleLimits(chats=self.limits.prefixes, nbytes=self.limits.prefix_bytes))
        self._banned = model.placeholders_in_vocabulary()
        # Their batches have something of their own, which no row of another request can share.
        self._shares = not (
            model.is_encoder_decoder
            or model.context is not None
            or isinstance(model.prepare_inputs, CountsNextPositions)
        )
        self._reader = Reader(model, processor, self.prefixes, self.features, self._shares)
        self._waiting: deque[Job] = deque()
        self._reading: Reading | None = None
        self._compiled = CompiledStep(model) if compile and self._shares else None
        self._shared = SharedBatch(model, self._compiled)
        self._own: list[OwnBatch] = []
        self._searches: list[BeamBatch] = []
        self._jobs: dict[int, Job] = {}
        self._aborted: set[int] = set()
        self._numbers = itertools.count()
        self._watch = WeightsWatch(model)
        # Whatever drops an answer calls `abort`, a garbage collection in the middle of `add` too.
        self._lock = threading.RLock()

    def encode(self, messages: Sequence[Message], measure: Measure = unmeasured) -> Encoded:
        """A conversation as the row that asks for its answer.  Raises PromptError for one that is too long."""
        encoded = encode(self.processor, messages, self.prepared, measure)
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
            job = Job(id=next(self._numbers), request=request, left=request.n, limit=limit, until=until)
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
        """Answers that are being written, and beams."""
        beams = sum(search.state.rows for search in self._searches)
        return len(self._shared.rows) + beams + sum(len(batch.rows) for batch in self._own)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, of running rows and of prefixes, and of features and prepared media."""
        states = [batch.state for batch in self._own] + [search.state for search in self._searches]
        own = sum(state.cache.nbytes for state in states)
        return self._shared.cache.nbytes + own + self.prefixes.nbytes + self.features.nbytes + self.prepared.nbytes

    def drop_requests(self) -> None:
        """Forget all requests (after a step that was broken off)."""
        with self._lock:
            self._jobs.clear()
            self._waiting.clear()
            self._aborted.clear()
        self._reading, self._own, self._searches, self._shared = None, [], [], SharedBatch(self.model, self._compiled)

    def drop_all(self) -> None:
        """Forget all requests and whatever was computed (after a failure in the middle of a step)."""
        self.drop_requests()
        self.clear_caches()

    def clear_caches(self) -> None:
        """Forget what conversations and media left behind, and what running ones would."""
        self._forget_computed()
        self.prepared.clear()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One round; what happened, in order.  An empty list without any request."""
        events = self.sweep()
        # Rows that began to write in this round have their first token from their prompt: they go on in the next.
        batches: list[SharedBatch | OwnBatch] = [*self._own, *([self._shared] if self._shared.rows else [])]
        searches = list(self._searches)
        written = [(batch, list(batch.rows), batch.step()) for batch in batches]
        for batch, rows, logits in written:
            for row, piece in zip(rows, batch.chooser.choose(rows, logits), strict=True):
                events.append(self._accept(row, piece, batch))
        for search in searches:
            events += self._search_on(search)
        self._tidy()
        return [*events, *self._prefill(self.limits.mixed_chunk if batches or searches else self.limits.chunk)]

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

    @torch.inference_mode()
    def sweep(self) -> list[Event]:
        """End what was aborted and what has had its time, as `step` does first of all; computes nothing."""
        now = time.monotonic()
        with self._lock:
            aborted, self._aborted = self._aborted, set()
            late = {job.id for job in self._jobs.values() if job.until is not None and job.until <= now}
            gone = [self._jobs[number] for number in sorted(aborted | late) if number in self._jobs]
        return [event for job in gone for event in self._end(job, "abort" if job.id in aborted else "timeout")]

    def _end(self, job: Job, reason: str, error: Exception | None = None) -> list[Event]:
        """End all answers of a request that go on still."""
        with self._lock:
            self._jobs.pop(job.id, None)
            if job in self._waiting:
                self._waiting.remove(job)
        job.ended = True
        if self._reading is not None and all(each.ended for each in self._reading.jobs):
            self._reading = None
        going = [row for row in job.rows if row.writer.finish_reason is None]
        for row in going:
            row.writer.finish_reason = reason
            self._leave(job, row, self._batch_of(row))
        self._tidy()
        answers = [row.answer for row in going] if job.rows else list(range(job.request.n))
        return [
            Event(request=job.id, answer=answer, finish_reason=reason, error=error, done=answer == answers[-1])
            for answer in answers
        ]

    def _tidy(self) -> None:
        """Drop batches in which nobody writes any more."""
        self._own = [batch for batch in self._own if batch.rows]
        self._searches = [batch for batch in self._searches if batch.rows]

    def _batch_of(self, row: Row) -> Batch:
        own: list[Batch] = [*self._own, *self._searches]
        return next((batch for batch in own if row in batch.rows), self._shared)

    def _leave(self, job: Job, row: Row, batch: Batch) -> None:
        """A row that has ended leaves its batch; what it computed is kept for the next turn."""
        keep = row.writer.finish_reason != "error" and not job.stale and job.width == 1
        keep = keep and self.prefixes.limits.nbytes > 0 and not self.model.is_encoder_decoder
        cache = batch.leave(row, keep)
        if cache is not None:
            self.prefixes.put(job.encoded, row.writer.ids, cache, job.request.tenant)

    def _accept(self, row: Row, piece: Piece | PolymodalError, batch: Batch | None) -> Event:
        """A row's next piece as an event; the row leaves its batch when it has ended."""
        job = self._jobs[row.request]
        if isinstance(piece, PolymodalError):
            row.writer.finish_reason = "error"
        ended = row.writer.finish_reason
        if ended is not None and batch is not None:
            self._leave(job, row, batch)
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
            cached_tokens=job.cached_tokens,
        )

    def _search_on(self, search: BeamBatch) -> list[Event]:
        """A step of a beam search; at its end all pieces of its answers."""
        try:
            found = search.step()
        except PolymodalError as problem:
            return [self._accept(row, problem, search) for row in list(search.rows)]
        events = []
        for row, pieces in zip(list(search.rows), found or (), strict=found is not None):
            for piece in pieces:
                row.writer.finish_reason = piece.finish_reason
                events.append(self._accept(row, piece, search))
        return events

    def _prefill(self, budget: int) -> list[Event]:
        """Prompts in order of arrival, up to `budget` tokens; those that are through write their first token."""
        events: list[Event] = []
        while budget > 0:
            jobs = self._next(budget) if self._reading is None else self._reading.jobs
            if not jobs:
                break
            try:
                if self._reading is None:
                    self._check_weights()
                    self._reading = self._reader.begin(jobs)
                budget -= self._read_on(budget)
                if self._reading.prefill.remaining:
                    break
                reading, self._reading = self._reading, None
                events += self._first_tokens(reading)
                budget -= 1  # also a prompt that was computed already takes a step's time
            except Exception as problem:
                # Nobody foresaw it, but it happened in what this request has for itself.
                if any(job.rows for job in jobs):
                    raise
                self._reading = None
                events += self._failed(jobs, problem)
        return events

    def _read_on(self, budget: int) -> int:
        """Read up to `budget` tokens of the prompts in hand; returns how many it were, padding included."""
        assert self._reading is not None
        prefill, rows = self._reading.prefill, len(self._reading.jobs)
        before = prefill.remaining
        if before:
            prefill.advance(max(1, budget // rows))
        return rows * (before - prefill.remaining)

    def _failed(self, jobs: Sequence[Job], problem: Exception) -> list[Event]:
        """A prompt that cannot be read ends its request; of several each is tried by itself."""
        if len(jobs) == 1:
            return self._end(jobs[0], "error", problem)
        with self._lock:
            for job in reversed(jobs):
                job.alone = True
                if not job.ended:
                    self._waiting.appendleft(job)
        return []

    def _next(self, budget: int) -> list[Job]:
        """The request that waits longest, if there are rows and memory for it, and those that are read with it."""
        taken: list[Job] = []
        with self._lock:
            while self._waiting:
                job = self._waiting[0]
                if taken and not self._reader.fit(taken, job, budget):
                    break
                if not self._space_for(job, taken):
                    break
                taken.append(self._waiting.popleft())
        return taken

    def _space_for(self, job: Job, taken: Sequence[Job]) -> bool:
        """Whether rows and memory are free; a single request always runs."""
        running = self.running + sum(each.width for each in taken)
        if not running:
            return True
        rows = running + job.width
        longest = max(each.length for each in self._jobs.values() if each is job or each.rows or each in taken)
        return rows <= self.limits.rows and rows * longest * self._shared.cache.token_bytes <= self.limits.cache_bytes

    def _check_weights(self) -> None:
        """Drop what weights computed that are not those of the last look."""
        if self._watch.changed():
            self._forget_computed()

    def _forget_computed(self) -> None:
        """Drop keys, values and features, and keep none of what runs."""
        self.prefixes.clear()
        self.features.clear()
        with self._lock:
            for job in self._jobs.values():
                job.stale = job.stale or bool(job.rows) or (self._reading is not None and job in self._reading.jobs)

    def _first_tokens(self, reading: Reading) -> list[Event]:
        """The first token of every answer of requests that were read; those that go on join a batch."""
        state, jobs = reading.prefill.state, reading.jobs
        for job in jobs:
            job.rows = self._rows_of(job)
        first = jobs[0]
        if first.request.options.beams > 1:
            self._keep_prompt(reading, 0)
            self._searches.append(BeamBatch(first.rows, state, self._banned))
            return []
        rows = [row for job in jobs for row in job.rows]
        origin = [index for index, job in enumerate(jobs) for _ in job.rows]
        found = Chooser().choose(rows, state.logits[torch.tensor(origin, device=state.logits.device)])
        own = None
        if not self._shares:
            if first.request.n > 1:
                self._keep_prompt(reading, 0)
                state = repeat_rows(state, first.request.n, first.limit)
            own = OwnBatch(rows, state, [reading.first(index) for index in origin])
            self._own.append(own)
        pieces = dict(zip(rows, found, strict=True))
        events = []
        for index, job in enumerate(jobs):
            if self._shares and not job.ended:
                self._join(reading, index, [pieces[row] for row in job.rows])
            for row in job.rows:
                if not job.ended:
                    events.append(self._accept(row, pieces[row], own))
                elif own is not None:
                    own.leave(row, keep=False)
        self._tidy()
        return events

    def _join(self, reading: Reading, index: int, pieces: Sequence[Piece | PolymodalError]) -> None:
        """The rows of a job go on in the batch that all share."""
        job = reading.jobs[index]
        if not any(isinstance(piece, PolymodalError) for piece in pieces):
            self._keep_prompt(reading, index)  # requests that begin alike need not wait for the answer
        for row, piece in zip(job.rows, pieces, strict=True):
            if row.writer.finish_reason is None and not isinstance(piece, PolymodalError):
                self._shared.join(row, reading.prefill.state, index, reading.first(index))

    def _keep_prompt(self, reading: Reading, index: int) -> None:
        """Keep the keys and values of a prompt for requests that begin alike."""
        job = reading.jobs[index]
        if not (job.stale or self.model.is_encoder_decoder or not self.prefixes.limits.nbytes):
            cache = reading.prefill.state.cache
            kept = cache if len(reading.jobs) == 1 else row_of(cache, index, reading.first(index), self.model)
            self.prefixes.put(job.encoded, (), kept, job.request.tenant)

    def _rows_of(self, job: Job) -> list[Row]:
        """One row for each answer of a request."""
        request = job.request
        return [
            Row(
                request=job.id,
                answer=answer,
                writer=Writer(row=answer, options=options, limit=job.limit, constraints=self.constraints),
                prompt=request.encoded.input_ids,
                allowed=request.allowed[answer] if request.allowed else rule_of(self.model),
                banned=self._banned,
            )
            for answer, options in enumerate(repeat_options([request.options], request.n))
        ]
