"""Conversations with one model from Python: any number of threads ask one engine, and who waits does its work.

    write(request)      one answer, piece by piece          thread A --- step --- wait --- step --->
    pieces(requests)    many answers, as they come          thread B --- wait --- step --- wait --->

There is no thread beside those that ask: one of them steps the engine, for all; the others wait for what the step
brings them, and one of them takes the next.  Nothing is computed while nobody waits, so that a reader who takes his
time holds no processor.  A reader who leaves before the end frees his rows at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence

from polymodal.engine.engine import Engine
from polymodal.engine.prefix_cache import IdleLimits
from polymodal.engine.request import Event, Request
from polymodal.generation.output import Piece


class Client:
    """The way to `engine` for threads that wait for their answers; nobody else may step it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._inboxes: dict[int, deque[tuple[int, Event | BaseException]]] = {}
        # A reader may be dropped, and call back, in the middle of anything.
        self._news = threading.Condition(threading.RLock())
        self._stepper: int | None = None  # the thread that steps

    def write(self, request: Request) -> Generator[Piece, None, None]:
        """The pieces of the answers to one request, in the order of their making.  Raises what one ended with."""
        for _, piece in self.pieces([request]):
            yield piece

    def pieces(self, requests: Sequence[Request]) -> Generator[tuple[int, Piece], None, None]:
        """(number of the request, piece), in the order of their making.  Raises the first error; the rest end then."""
        for index, event in self.events(requests):
            if event.error is not None:
                raise event.error
            if event.piece is not None:
                yield index, event.piece

    def events(self, requests: Sequence[Request]) -> Generator[tuple[int, Event], None, None]:
        """(number of the request, event) until all have ended; leaving early ends them."""
        inbox: deque[tuple[int, Event | BaseException]] = deque()
        going: dict[int, int] = {}
        try:
            with self._news:  # before any step tells of them
                for index, request in enumerate(requests):
                    number = self.engine.add(request)
                    going[number] = index
                    self._inboxes[number] = inbox
            while going:
                number, event = self._next(inbox)
                if isinstance(event, BaseException):
                    raise event
                yield (going.pop if event.done else going.__getitem__)(number), event
        finally:
            self._give_up(going)

    def clear(self) -> None:
        """Forget what conversations and media left behind."""
        with self._news:
            self._news.wait_for(self._free)
            self.engine.clear_caches()

    def limit(self, limits: IdleLimits) -> None:
        """What conversations that have ended may hold for their next turns."""
        prefixes = self.engine.prefixes
        if prefixes.limits != limits:
            with self._news:
                self._news.wait_for(self._free)
                prefixes.limits = limits
                prefixes.trim()

    def _free(self) -> bool:
        """Whether nobody else steps.  Where this thread does by its mark, it was interrupted before it began."""
        return self._stepper in (None, threading.get_ident())

    def _next(self, inbox: deque[tuple[int, Event | BaseException]]) -> tuple[int, Event | BaseException]:
        """What comes next for a reader; the engine is stepped until something does."""
        while True:
            with self._news:
                self._news.wait_for(lambda: inbox or self._free())
                if inbox:
                    return inbox.popleft()
                self._stepper = threading.get_ident()
            self._step()

    def _step(self) -> None:
        """One step, whose events go to their readers.  A step that is broken off ends the requests of all."""
        try:
            events = self.engine.step()
            with self._news:
                self._deliver(events)
                self._done()
        except BaseException as problem:
            with self._news:
                if isinstance(problem, Exception):
                    self.engine.drop_all()
                else:  # an interrupt: what was finished is sound
                    self.engine.drop_requests()
                for number, inbox in self._inboxes.items():
                    inbox.append((number, problem))
                self._inboxes.clear()
                self._done()
            raise

    def _done(self) -> None:
        self._stepper = None
        self._news.notify_all()

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            inbox = self._inboxes.get(event.request)
            if inbox is not None:
                inbox.append((event.request, event))
                if event.done:
                    del self._inboxes[event.request]

    def _give_up(self, going: Mapping[int, int]) -> None:
        """End requests whose reader has gone; their rows are freed now, or by the step that runs."""
        if not going:
            return
        with self._news:
            for number in going:
                self._inboxes.pop(number, None)
                self.engine.abort(number)
            if self._stepper is None:
                self._deliver(self.engine.sweep())
                self._news.notify_all()
