"""POST /v1/audio/transcriptions: the words of a recording, whole, with times, as subtitles, or as they are heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, UploadFile
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

import polymodal as pm
from polymodal.pipelines.transcription.transcribe import Segment
from polymodal.serve.chat import sse
from polymodal.serve.errors import Refused, refusal
from polymodal.serve.isolation import IsolatedAudio
from polymodal.serve.models import ServedModel, find
from polymodal.serve.settings import Settings

Format = Literal["json", "text", "verbose_json", "srt", "vtt"]
RATE = 16_000
DETAILS = ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature")
NOTHING_MORE: Any = object()


def add_transcription(app: FastAPI, models: Mapping[str, ServedModel], settings: Settings, headers: Any) -> None:
    """The route.  headers: of streams."""

    @app.post("/v1/audio/transcriptions")
    async def transcribe(
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()],
        response_format: Annotated[Format, Form()] = "json",
        stream: Annotated[bool, Form()] = False,
        granularities: Annotated[list[str] | None, Form(alias="timestamp_granularities[]")] = None,
        language: Annotated[str | None, Form()] = None,
        prompt: Annotated[str | None, Form()] = None,
        temperature: Annotated[float, Form()] = 0.0,
    ) -> Any:
        """The words of a recording."""
        for name, value in (("language", language), ("prompt", prompt), ("temperature", temperature)):
            if value:
                raise Refused(400, f"{name} is not offered", param=name)
        if set(granularities or ()) - {"segment"}:
            raise Refused(400, "timestamp_granularities[]: expected segment; words have no times here")
        if granularities and response_format != "verbose_json":
            raise Refused(400, "timestamp_granularities[] goes with response_format verbose_json")
        if stream and response_format not in ("json", "text"):
            raise Refused(400, f"stream goes with response_format json, found {response_format}", param="stream")
        served = find(models, model)
        served.model.require("transcribe")
        recording = IsolatedAudio(await file.read(), settings.media, decoders=served.decoders)
        if stream:
            await served.alone(recording.samples, RATE)  # what cannot be read is refused before the first event
            return StreamingResponse(events(served, recording), media_type="text/event-stream", headers=headers)
        heard = await served.alone(listen, served.model, recording)
        return written(heard, response_format)


@dataclass(frozen=True)
class Heard:
    """A finished transcript; seconds: of the recording."""

    text: str
    segments: tuple[Segment, ...]
    seconds: float


def listen(model: pm.Model, recording: IsolatedAudio) -> Heard:
    """The transcript of a recording.  Raises MediaError for one that cannot be read."""
    stream = model.transcribe_stream(recording)
    for _ in stream:
        pass
    return Heard(stream.reply.text, stream.reply.segments, len(recording.samples(RATE)) / RATE)


def written(heard: Heard, form: Format) -> Response | dict[str, Any]:
    """A transcript in one of the forms of OpenAI's interface."""
    if form == "json":
        return {"text": heard.text}
    if form == "text":
        return PlainTextResponse(heard.text + "\n")
    if form == "srt":
        return PlainTextResponse(srt(heard.segments), media_type="application/x-subrip")
    if form == "vtt":
        return PlainTextResponse(vtt(heard.segments), media_type="text/vtt")
    rows = [
        {
            "id": index,
            "seek": 0,
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "tokens": list(segment.tokens),
            **{name: getattr(segment, name) for name in DETAILS},
        }
        for index, segment in enumerate(heard.segments)
    ]
    known = {"task": "transcribe", "language": None, "duration": heard.seconds}
    return {**known, "text": heard.text, "segments": rows}


def srt(segments: tuple[Segment, ...]) -> str:
    """Subtitles in the form of SubRip."""
    lines = [
        f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{_line(each.text)}\n"
        for number, each in enumerate(segments, 1)
    ]
    return "\n".join(lines)


def vtt(segments: tuple[Segment, ...]) -> str:
    """Subtitles in the form of WebVTT, in which `&` and `<` are written as entities."""
    lines = ["WEBVTT\n"]
    for each in segments:
        text = _line(each.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        lines.append(f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{text}\n")
    return "\n".join(lines)


def _clock(seconds: float, point: str) -> str:
    """01:02:03,450"""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _line(text: str) -> str:
    """Without line ends, of which an empty line would end the subtitle."""
    return " ".join(text.split())


async def events(served: ServedModel, recording: IsolatedAudio) -> AsyncIterator[str]:
    """What is heard, window by window, as server-sent events; listening ends with the connection."""
    try:
        async with served.one:
            heard = await asyncio.to_thread(served.model.transcribe_stream, recording)
            windows: Iterator[Any] = heard.windows()
            while (window := await asyncio.to_thread(next, windows, NOTHING_MORE)) is not NOTHING_MORE:
                if window.text:
                    yield sse({"type": "transcript.text.delta", "delta": window.text})
            yield sse({"type": "transcript.text.done", "text": heard.reply.text})
    except Exception as problem:
        yield sse(refusal(problem).body)
        return
    yield "data: [DONE]\n\n"
