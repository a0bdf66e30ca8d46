"""The thread in which an engine works, and how requests on the event loop wait for it.

    with worker.submit(request) as ticket:        # leaving the block early aborts the request at the next step
        async for event in ticket: ...

One thread for each engine; it sleeps while nothing is asked.  A step that fails unforeseen ends the requests that were
in it with that error and leaves the thread alive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from polymodal.engine.engine import Engine
from polymodal.engine.request import Event, Request


class Ticket:
    """A request that an engine has taken: its events, in order, until it is done.

    Raises what a step failed with.  Leaving its `with` block ends the request.  watcher: is shown every event.
    """

    watcher: Callable[[Event], None] | None = None

    def __init__(self, request: Request, cancel: Callable[[], None]) -> None:
        self.request = request
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._done = False

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the request, if it goes on still."""
        if not self._done:
            self._done = True
            self._cancel()

    def __aiter__(self) -> Ticket:
        return self

    async def __anext__(self) -> Event:
        if self._done:
            raise StopAsyncIteration
        event = await self._queue.get()
        if isinstance(event, BaseException):
            self._done = True
            raise event
        self._done = event.done
        if self.watcher is not None:
            self.watcher(event)
        return event

    def tell(self, what: Event | BaseException) -> None:
        """From the engine's thread: what happened."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, what)


class EngineWorker:
    """Steps `engine` in a thread of its own until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tickets: dict[int, Ticket] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="polymodal-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Ticket:
        """Queue a request; called on the event loop.  Raises as `Engine.add`."""
        with self._wake:
            number = self.engine.add(request)
            ticket = self._tickets[number] = Ticket(request, lambda: self._cancel(number))
            self._wake.notify()
        return ticket

    def _cancel(self, number: int) -> None:
        with self._wake:
            self._tickets.pop(number, None)
            self.engine.abort(number)
            self._wake.notify()

    def close(self) -> None:
        """Stop after the present step; what goes on still is not finished."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self.engine.busy)
                if self._closing:
                    return
            try:
                events = self.engine.step()
            except Exception as problem:
                self._fail(problem)
                continue
            with self._wake:
                for event in events:
                    ticket = self._tickets.pop(event.request, None) if event.done else self._tickets.get(event.request)
                    if ticket is not None:
                        ticket.tell(event)

    def _fail(self, problem: Exception) -> None:
        with self._wake:  # no request may come in between: nobody would hear of it
            self.engine.drop_all()
            tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.tell(problem)
