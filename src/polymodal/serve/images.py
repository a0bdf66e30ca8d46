"""POST /v1/images/generations: pictures from words, as base64; of models that write their pictures themselves."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from PIL.Image import Image
from starlette.requests import Request

from polymodal.serve.errors import Refused
from polymodal.serve.models import ServedModel, find
from polymodal.serve.schemas import Images
from polymodal.serve.settings import Settings

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def add_images(app: FastAPI, models: Mapping[str, ServedModel], settings: Settings) -> None:
    """The route."""

    @app.post("/v1/images/generations")
    async def generate(body: Images, request: Request) -> dict[str, Any]:
        """Pictures from words."""
        served = find(models, body.model)
        served.model.require("draw")
        if not served.model.paints:
            raise Refused(400, f"{served.name} draws through diffusion pipelines, which this server has not")
        limits, n = settings.requests, body.n or 1
        if n > limits.n:
            raise Refused(400, f"n: {n} pictures, the limit is {limits.n}", param="n")
        if len(body.prompt) > limits.text:
            raise Refused(413, f"prompt: {len(body.prompt):,} characters, the limit is {limits.text:,}", param="prompt")
        watch = Watch(limits.seconds)
        gone = asyncio.ensure_future(disconnected(request, watch))
        try:
            reply = await served.alone(
                served.model.draw, body.prompt, size=sides_of(body.size), n=n, seed=body.seed, step=watch
            )
        finally:
            gone.cancel()
        form = FORMATS[body.output_format or "png"]
        data = [{"b64_json": await asyncio.to_thread(encoded, each, form)} for each in reply.media["image"]]
        read, written = reply.tokens.get("text", 0), reply.tokens.get("generated", 0)
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written,
                 "input_tokens_details": {"text_tokens": read, "image_tokens": 0}}  # fmt: skip
        return {"created": int(time.time()), "data": data, "usage": usage}


class Watch:
    """Ends the work between two ids: when nobody waits for it any more, or it takes too long."""

    def __init__(self, seconds: float) -> None:
        self.gone = False
        self._seconds, self._until = seconds, time.monotonic() + seconds

    def __call__(self, written: int, whole: int) -> None:
        """Raises Refused."""
        if self.gone:
            raise Refused(499, "the client hung up")
        if time.monotonic() > self._until:
            raise Refused(408, f"drawing took more than {self._seconds:g} s ({written:,} of {whole:,} ids)")


async def disconnected(request: Request, watch: Watch) -> None:
    """Tells the watch when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    watch.gone = True


def sides_of(size: str | None) -> tuple[int, int] | None:
    """ "512x512" -> (512, 512); None, "auto" -> None.  Raises Refused."""
    if size in (None, "auto"):
        return None
    found = SIZE.fullmatch(str(size))
    if found is None:
        raise Refused(400, f"size: expected WIDTHxHEIGHT, found {str(size)[:40]!r}", param="size")
    return int(found[1]), int(found[2])


def encoded(picture: Image, form: str) -> str:
    """A picture file in base64."""
    file = io.BytesIO()
    picture.save(file, form)
    return base64.b64encode(file.getvalue()).decode()
