"""POST /v1/audio/speech: a text as sound; 16-bit samples (pcm) come sentence by sentence, files when they are whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from starlette.requests import Request

import polymodal as pm
from polymodal.data.audio_writing import SOUND_TYPES, encode_sound, pcm, writable
from polymodal.errors import UnknownName
from polymodal.pipelines.speaking.kokoro import RATE
from polymodal.pipelines.speaking.speaker import Speaker
from polymodal.serve.errors import LOG, Refused
from polymodal.serve.isolation import Decoders
from polymodal.serve.schemas import Speech
from polymodal.serve.settings import Settings
from polymodal.systems import unknown

NOTHING_MORE: Any = object()


class ServedSpeaker:
    """A speaker behind HTTP: one text at a time.  decoders: the children that give it the sounds of words."""

    def __init__(self, name: str, speaker: Speaker, decoders: Decoders) -> None:
        self.name, self.speaker, self.one = name, speaker, asyncio.Lock()
        self._decoders = decoders
        self.card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "polymodal",
                     "inputs": ["text"], "can": ["speak"], "voices": list(pm.Voice.names)}  # fmt: skip

    def close(self) -> None:
        """End the children."""
        self._decoders.close()


def add_speech(app: FastAPI, speakers: Mapping[str, ServedSpeaker], settings: Settings, headers: Any) -> None:
    """The route.  headers: of streams."""

    @app.post("/v1/audio/speech", response_class=Response)
    async def speech(body: Speech, request: Request) -> Response:
        """A text as sound."""
        served = find_speaker(speakers, body.model)
        if body.response_format not in writable():
            raise Refused(
                400,
                f"response_format: expected one of {', '.join(writable())}, found {body.response_format[:40]!r}",
                param="response_format",
            )
        if len(body.input) > (most := settings.requests.speech):
            raise Refused(413, f"input: {len(body.input):,} characters, the limit is {most:,}", param="input")
        parts = spoken(served, body, voice_named(body.voice), settings.requests.seconds)
        first = await anext(parts)  # what cannot be spoken is refused before the answer begins
        kind = SOUND_TYPES[body.response_format]
        if body.response_format == "pcm":
            return StreamingResponse(samples(first, parts), media_type=f"{kind};rate={RATE}", headers=headers)
        found = [first]
        async for part in parts:
            if await request.is_disconnected():
                await parts.aclose()
                raise Refused(499, "the client hung up")
            found.append(part)
        data = await asyncio.to_thread(encode_sound, np.concatenate(found), RATE, body.response_format)
        return Response(data, media_type=kind)


def find_speaker(speakers: Mapping[str, ServedSpeaker], name: str) -> ServedSpeaker:
    """The speaker of that name.  Raises UnknownName."""
    if name in speakers:
        return speakers[name]
    others = f"{', '.join(speakers)} is" if speakers else "none is; `polymodal serve mini kokoro` serves one"
    raise UnknownName(f"no voice {name[:80]!r} is served here; {others}")


def voice_named(name: str) -> str:
    """A voice by its own name, or by OpenAI's, which Kokoro has too: alloy is af_alloy.  Raises Refused."""
    names = pm.Voice.names
    own = name if name in names else next((each for each in names if each.partition("_")[2] == name), None)
    if own is None:
        raise Refused(400, f"voice: {unknown('voice', name[:40], names)}", param="voice")
    return own


async def spoken(served: ServedSpeaker, body: Speech, voice: str, seconds: float) -> AsyncGenerator[np.ndarray, None]:
    """The samples of a text, part by part; another text is spoken when this one has ended."""
    until = time.monotonic() + seconds
    async with served.one:
        parts: Iterator[Any] = served.speaker.stream(body.input, voice, body.speed)
        while (part := await asyncio.to_thread(next, parts, NOTHING_MORE)) is not NOTHING_MORE:
            yield part[1]
            if time.monotonic() > until:
                raise Refused(408, f"speaking took more than {seconds:g} s")


async def samples(first: np.ndarray, rest: AsyncGenerator[np.ndarray, None]) -> AsyncIterator[bytes]:
    """16-bit samples as they come."""
    try:
        yield pcm(first)
        async for part in rest:
            yield pcm(part)
    except Refused as problem:
        LOG.warning("speech broke off: %s", problem.message)
    finally:
        await rest.aclose()
