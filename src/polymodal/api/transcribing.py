"""Transcribing one recording piece by piece: what was heard is there while the rest is still being listened to.

recording -> windows of 30 s at most -> segments with their times -> Reply
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from polymodal.api.reply import Reply
from polymodal.errors import MediaError, PromptError
from polymodal.pipelines.transcription.transcribe import Segment, Window

if TYPE_CHECKING:
    from polymodal.api.model import Model
    from polymodal.data.media import Audio

RATE = 16_000  # of counting how long a recording is


class TranscriptStream:
    """Segments of one recording, as soon as they are heard.  Iterate once; then `reply` holds the whole.

    A segment has `start` and `end` in seconds of the recording, and `text`.
    """

    def __init__(self, model: Model, recording: Audio, heard: Iterator[Window]) -> None:
        self._model, self._recording, self._heard = model, recording, heard
        self._reply: Reply | None = None

    @property
    def reply(self) -> Reply:
        """The finished transcript; raises PromptError before the stream has ended."""
        if self._reply is None:
            raise PromptError("the recording is not transcribed to its end; iterate over the stream first")
        return self._reply

    def __iter__(self) -> Iterator[Segment]:
        for window in self.windows():
            yield from window.segments

    def windows(self) -> Iterator[Window]:
        """The same by windows, silent ones included: each has its `text`, its `segments`, and how far it is.

        Raises MediaError for a recording that cannot be read, maybe only where it is damaged.
        """
        texts: list[str] = []
        segments: list[Segment] = []
        spent, begin = 0.0, time.perf_counter()
        for window in self._heard:
            texts.append(window.text)
            segments += window.segments
            spent += time.perf_counter() - begin
            yield window
            begin = time.perf_counter()
        self._reply = Reply(
            text="".join(texts).strip(),
            model=self._model.name,
            seconds={"load": self._model.load_seconds, "generate": spent + time.perf_counter() - begin},
            segments=tuple(segments),
        )


def as_one_window(transcribe: Callable[[Any], str], recording: Audio) -> Iterator[Window]:
    """What a system says of a whole recording at once; without a segment where only the system can read it."""
    with torch.inference_mode():
        text = transcribe(recording)
    try:
        seconds = sum(map(len, recording.blocks(RATE))) / RATE
    except MediaError:
        seconds = 0.0
    segments = (Segment(start=0.0, end=seconds, text=text),) if text.strip() and seconds else ()
    yield Window(text=text, segments=segments, until=seconds, seconds=seconds)
