"""Recordings enter a conversation through an encoder and a connector, not as text.

    recording -> log-mel -> encoders.audio (Whisper's) -> connectors.audio -> embeddings at n placeholders

How many tokens a recording takes is known only when it has been encoded, and the processor must know it to lay out the
sequence: `count` runs the two networks for that, and the model runs them again.  A recording alone in its message is
the message itself; one beside typed words is quoted, as `hearing` does with words.
Traps: a recording is one window of the encoder (30 s for Whisper); longer ones are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.connectors.ctc import CTCConnector
from polymodal.data.media import Audio, Text
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.messages import Message
from polymodal.data.processor import Modality
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders.whisper import WhisperEncoder
from polymodal.errors import MediaError, NotFinite
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.pipelines.speech_as_text import RATE, quoted
from polymodal.pipelines.transcription.transcribe import SILENCE

LENGTHS = "audio_lengths"
BEFORE, AFTER = quoted("\0").split("\0")


class SpeechAsFeatures:
    """model: with `encoders.audio` (a WhisperEncoder) and `connectors.audio` (a CTCConnector)."""

    def __init__(self, model: MultimodalLM, tokenizer: Tokenizer, mel: MelConfig):
        self._model = model
        self._tokenizer = tokenizer
        self._mel = mel

    def modality(self, placeholder: str) -> Modality:
        """How recordings enter the sequence, for a processor."""
        return Modality(
            name="audio", placeholder=placeholder, transform=self.values, tokens=self.count, collate=collate
        )

    def values(self, recording: Audio) -> dict[str, Tensor]:
        """`audio_values` [mels, frames] and `audio_lengths` [], the encoder's frames that cover the sound.

        Raises MediaError for a recording that is longer than a window or cannot be read.
        """
        length = sum(map(len, recording.blocks(RATE)))  # a long recording is never held as a whole
        longest = self._mel.samples or 0
        if length > longest:
            raise MediaError(
                f"{recording!r}: {length / RATE:.0f} s of sound, this model takes {longest / RATE:.0f} s; "
                "cut the recording, or use a model that transcribes"
            )
        samples = recording.samples(RATE)
        frames = self._encoder.config.tokens_in(len(samples) / RATE)
        return {"audio_values": log_mel(samples, self._mel), LENGTHS: torch.tensor(frames)}

    def count(self, values: Mapping[str, Tensor]) -> int:
        """Tokens that the connector makes of what `values` gave."""
        return len(self._probabilities(values))

    def text(self, recording: Audio) -> str:
        """The likeliest tokens as text; "" for silence, and where nothing but punctuation comes out."""
        samples = recording.samples(RATE)
        if not len(samples) or float(np.abs(samples).max()) <= SILENCE:
            return ""
        probabilities = self._probabilities(self.values(recording))
        words = self._tokenizer.decode(self._connector.token_ids[probabilities.argmax(-1)].tolist()).strip()
        return words if any(letter.isalnum() for letter in words) else ""

    def rewrite(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation with quotation marks around recordings that stand beside typed words."""
        return tuple(_quoted(message) for message in messages)

    @property
    def _encoder(self) -> WhisperEncoder:
        encoder = self._model.encoders["audio"]
        assert isinstance(encoder, WhisperEncoder)
        return encoder

    @property
    def _connector(self) -> CTCConnector:
        connector = self._model.connectors["audio"]
        assert isinstance(connector, CTCConnector)
        return connector

    @torch.inference_mode()
    def _probabilities(self, values: Mapping[str, Tensor]) -> Tensor:
        """[n, V] of the tokens that are heard.  Raises NotFinite, since a token of NaN is no token."""
        rows = self._connector.rows
        mel = values["audio_values"].to(device=rows.device, dtype=rows.dtype)
        (probabilities,) = self._connector.decode(self._encoder(mel[None]), values[LENGTHS].to(rows.device)[None])
        if not bool(torch.isfinite(probabilities).all()):
            raise NotFinite("the model's scores of what was said are NaN or infinite")
        return probabilities


def collate(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """The values of all recordings of a batch: `audio_values` [N, mels, frames], `audio_lengths` [N]."""
    return {name: torch.stack([item[name] for item in items]) for name in ("audio_values", LENGTHS)}


def _quoted(message: Message) -> Message:
    if not any(isinstance(part, Text) and part.text.strip() for part in message.parts):
        return message
    parts: list[Any] = []
    for part in message.parts:
        parts += [Text(BEFORE), part, Text(AFTER)] if isinstance(part, Audio) else [part]
    return replace(message, parts=tuple(parts))
