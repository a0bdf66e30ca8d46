"""JSON of strangers: read with the limits of files.parse_json (depth, digits, surrogates), and off the event loop.

app.router.route_class = StrictRoute
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from polymodal.errors import PromptError
from polymodal.files import parse_json

SMALL = 65_536  # bytes; less is read at once


class StrictRequest(Request):
    """A request whose `json` refuses what cannot be handled safely."""

    async def json(self) -> Any:
        """As for Request.  Raises HTTPException (400)."""
        body, name = await self.body(), "the JSON of the request"
        try:
            if len(body) <= SMALL:
                return parse_json(body, name, PromptError)
            return await asyncio.to_thread(parse_json, body, name, PromptError)
        except PromptError as problem:
            raise HTTPException(400, str(problem)) from problem


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As for APIRoute."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
