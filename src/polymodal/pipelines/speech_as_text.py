"""Recordings enter a text conversation as their words.

    Audio parts of a message -> Whisper (encoder and decoder) -> Text parts, before the conversation is rendered

A recording alone in its message is the question itself; one beside typed words is quoted, so that the typed words
can be about it.  Transcripts are cached by content, so a later turn does not transcribe again.  Whisper is opened when
the first recording comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message
from polymodal.data.whisper_tokenizer import WhisperTokenizer
from polymodal.models.speech_seq2seq import OPENAI_KEYS, WHISPER, SpeechSeq2Seq
from polymodal.pipelines.transcription.transcribe import TranscribeOptions, Transcript, Transcription, Window
from polymodal.weights.fetch import fetch
from polymodal.weights.load import load_module
from polymodal.weights.read import TensorFile
from polymodal.weights.source import Source

RATE = 16_000
KEPT = 256  # transcripts
OpenWeights = Callable[[Source], TensorFile]
"""A source of weights -> its opened file, fetched if need be."""


def open_whisper(
    size: str, weights: Source, ranks: Source, open_weights: OpenWeights
) -> tuple[SpeechSeq2Seq, WhisperTokenizer]:
    """A published Whisper of the original layout, with its tokenizer."""
    config = WHISPER[size]
    model = load_module(config.build, open_weights(weights), (OPENAI_KEYS,), dtype=torch.float32)
    return model.eval(), config.read_tokenizer(fetch(ranks))


def quoted(words: str) -> str:
    """How a recording stands beside typed words."""
    return f'The recording says: "{words}"\n'


class SpeechAsText:
    """open: () -> (SpeechSeq2Seq, WhisperTokenizer), called once."""

    def __init__(self, open: Callable[[], tuple[Any, Any]]):
        self._open = open
        self._parts: tuple[Any, Any] | None = None
        self._transcripts: dict[str, Transcript] = {}
        self._lock = threading.Lock()

    def windows(self, recording: Audio) -> Iterator[Window]:
        """What is heard in each window, as soon as it is; at once for samples that were heard to their end before.

        Raises MediaError when the recording cannot be read.
        """
        key = recording.content_hash(RATE)
        if (known := self._transcripts.get(key)) is not None:
            yield Window(text=known.text, segments=known.segments, until=known.seconds, seconds=known.seconds)
            return
        with self._lock:
            if self._parts is None:
                self._parts = self._open()
        work, heard = Transcription(*self._parts, recording, TranscribeOptions()), []
        for window in work.windows():
            heard.append(window)
            yield window
        self._transcripts[key] = work.transcript(heard)
        while len(self._transcripts) > KEPT:
            self._transcripts.pop(next(iter(self._transcripts)), None)

    def text(self, recording: Audio) -> str:
        """The words of a recording."""
        return "".join(window.text for window in self.windows(recording)).strip()

    def rewrite(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation with every recording replaced by its words."""
        return tuple(self._message(m) if any(isinstance(p, Audio) for p in m.parts) else m for m in messages)

    def _message(self, message: Message) -> Message:
        typed = any(isinstance(part, Text) and part.text.strip() for part in message.parts)
        parts = []
        for part in message.parts:
            if isinstance(part, Audio):
                words = self.text(part)
                part = Text(quoted(words) if typed else words)
            parts.append(part)
        return replace(message, parts=tuple(parts))
