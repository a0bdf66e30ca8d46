"""Before any route: who asks, from which page, and how much; on every answer: headers that browsers keep to.

The key; the Host (a page may point a name of its own at this machine: DNS rebinding); the Origin (pages of other
servers may not ask, unless they are allowed: CORS); the size of the body, counted as it comes in, whatever its header
says, alone and with those of all requests that are being answered; the time that it takes to come in, and that a piece
of the answer takes to be fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from polymodal.serve.errors import LOG, Refused, refusal
from polymodal.serve.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

DISCARD_SECONDS = 5
WITHOUT_KEY = ("/health",)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

# For pages of origins that are allowed; others are refused before.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}


@dataclass
class _State:
    """Of one request: whether its answer has begun, its bytes so far, whether they were too many, and whether its
    sender takes too long to fetch the answer."""

    started: bool = False
    taken: int = 0
    too_large: bool = False
    late: bool = False


class Guard:
    """An ASGI middleware.  answered(route, status) is told of every answer.  public: paths without a key."""

    def __init__(
        self, app: Application, settings: Settings, public: Collection[str], answered: Callable[[str, int], None]
    ) -> None:
        self._app, self._settings, self._answered = app, settings, answered
        self._public = {*WITHOUT_KEY, *public}
        self._held = 0  # bytes of the bodies of all requests that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = _State()
        headers = {name.lower(): value for name, value in scope["headers"]}
        origin = headers.get(b"origin", b"").decode("latin-1")
        shared = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if origin in self._settings.origins else {}
        extra = [(name.lower().encode(), value.encode("latin-1")) for name, value in {**HEADERS, **shared}.items()]

        async def sending(message: MutableMapping[str, Any]) -> None:
            if state.too_large and not state.started:
                return  # what the application says of a body that broke off; the answer follows below
            if message["type"] == "http.response.start":
                state.started = True
                route = scope.get("route")
                self._answered(getattr(route, "path", "other"), message["status"])
                own = list(message.get("headers", ()))
                named = {name for name, _ in own}
                message = {**message, "headers": [*own, *(each for each in extra if each[0] not in named)]}
            try:
                async with asyncio.timeout(self._settings.requests.body_seconds):
                    await send(message)
            except TimeoutError:
                state.late = True
                raise

        try:
            await self._answer(scope, headers, receive, sending, state)
        except Exception as problem:
            if state.late:
                LOG.warning("a client did not fetch its answer; its connection is closed")
                return
            if state.started:
                raise
            found = refusal(problem)
            if state.too_large:
                await _discard(receive, self._settings.requests.body)
                state.too_large = False
            await JSONResponse(found.body, found.status, found.headers)(scope, receive, sending)
        finally:
            self._held -= state.taken

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, state: _State
    ) -> None:
        """What the application answers, if it is asked.  Raises Refused."""
        self._check(scope, headers)
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=PREFLIGHT)(scope, receive, send)
            return
        self._check_length(headers.get(b"content-length", b""), state)
        await self._app(scope, self._counted(receive, state), send)
        if state.too_large and not state.started:
            raise self._too_large()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = _host(headers.get(b"host", b"").decode("latin-1"))
        if self._settings.hosts and host not in self._settings.hosts:
            raise Refused(403, f"this server does not answer to the name {host[:80]!r}")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in self._settings.origins and _host(origin.partition("://")[2]) != host:
            raise Refused(403, f"pages of {origin[:80]!r} may not use this server")
        if scope["path"] in self._public or scope["method"] == "OPTIONS":
            return
        key = self._key_of(headers.get(b"authorization", b""))
        if key is None:
            raise Refused(401, "this server needs an API key: Authorization: Bearer KEY", code="invalid_api_key")
        scope.setdefault("state", {})["key"] = key

    def _check_length(self, declared: bytes, state: _State) -> None:
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._settings.requests.body):
            state.too_large = True
            raise self._too_large()

    def _counted(self, receive: Receive, state: _State) -> Receive:
        """`receive` that breaks off where a body is larger than it may be, or takes longer to come in."""
        limits, whole = self._settings.requests, False
        until = asyncio.get_running_loop().time() + limits.body_seconds

        async def counted() -> MutableMapping[str, Any]:
            nonlocal whole
            try:
                async with asyncio.timeout_at(None if whole else until):
                    message = await receive()
            except TimeoutError:
                late = f"the request took more than {limits.body_seconds:g} s to come in"
                raise HTTPException(408, late) from None
            whole = whole or not message.get("more_body")
            size = len(message.get("body", b""))
            state.taken += size
            self._held += size
            if state.taken > limits.body:
                state.too_large = True
                raise self._too_large()
            if self._held > self._settings.bodies:
                raise HTTPException(503, "too many large requests are being answered; try again later")
            return message

        return counted

    def _too_large(self) -> Refused:
        return Refused(413, f"the request has more than {self._settings.requests.body:,} bytes, the limit")

    def _key_of(self, header: bytes) -> str | None:
        """The hash of the key that lets in, empty where none is needed; None for another one."""
        if not self._settings.api_keys:
            return ""
        kind, _, key = header.partition(b" ")
        found = hashlib.sha256(key.strip()).hexdigest()
        # Every key is compared, in constant time: nothing is learned from how long it takes.
        matches = [hmac.compare_digest(found, known) for known in self._settings.api_keys]
        return found if kind.lower() == b"bearer" and any(matches) else None


def _host(netloc: str) -> str:
    """The name without its port."""
    netloc = netloc.rpartition("@")[2]
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.partition(":")[0].lower()


def tenant(request: Request, salt: str) -> str:
    """Whose caches a request may use: those of its key and its `cache_salt`."""
    return f"{request.scope.get('state', {}).get('key', '')}/{salt}"


async def _discard(receive: Receive, most: int) -> None:
    """Read on for a little: a client that is still sending would not see the answer."""
    taken = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while taken <= most:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
