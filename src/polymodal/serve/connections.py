"""Connections: how many there may be, how long one may take to say what it wants, and how uvicorn is set up.

uvicorn waits for ever for the head of a request; a few hundred lines that are opened and left would use up all that the
process may have (slowloris).  Bodies and answers have their own limits of time, in guard.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from polymodal.serve.errors import Refused
from polymodal.serve.settings import Settings

MAX_HEAD = 65_536  # bytes of a request's line and headers


def configured(app: Any, settings: Settings) -> uvicorn.Config:
    """How an application is served."""
    return uvicorn.Config(
        app,
        http=bounded(settings.connections, settings.head_seconds),
        ws="none",
        log_level="warning",
        use_colors=False,  # lines of the log are cleaned like all that goes to stderr
        timeout_graceful_shutdown=max(1, round(settings.drain)),
        timeout_keep_alive=15,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD,
    )


def bounded(connections: int, seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with limits; seconds: for the head of a request, from its connection or its first byte on."""

    class Bounded(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > connections:
                transport.write(_too_many())
                transport.close()
                return
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._patience is None:
                self._patience = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            self._patience = None
            if self.conn.their_state is h11.IDLE:
                self.transport.close()

    return Bounded


def _too_many() -> bytes:
    """An answer without a request."""
    refused = Refused(503, "too many connections; try again later")
    body = json.dumps(refused.body).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
