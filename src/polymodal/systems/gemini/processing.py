"""What Gemini's messages become: frames of a video are pictures, a picture in an answer is its tokens.

    user       picture, sound -> features at placeholders; a video -> 16 of its frames, at equal steps, as pictures
    assistant  picture -> <picture><picture 17><picture 4>...</picture>, ordinary tokens that are learned as words are

Published: frames in place of a video, 16 of them for benchmarks; sound at 16 kHz.  Not published: any prompt (turns are
Gemma's), marks of a picture, the place of a video's sound, which is not heard here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from polymodal.data.chat_formats import gemma
from polymodal.data.hf_image import VIT, PublishedTransform, transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Audio, Image, Media, Text, Video
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders.whisper import FRAMES_PER_SECOND, WhisperEncoderConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.picture_writing_lm import PictureWritingLM

PLACEHOLDERS = {"image": "<image>", "audio": "<audio>"}
BEGIN, END = "<picture>", "</picture>"
FRAMES = 16


def code_name(code: int) -> str:
    """The token of a code."""
    return f"<picture {code}>"


@dataclass(frozen=True, kw_only=True)
class MediaAsRead:
    """Conversations with frames in place of videos, and tokens in place of pictures in answers."""

    model: PictureWritingLM
    transform: PublishedTransform

    def __call__(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Raises PromptError for sound or a video in an answer: it writes words and pictures."""
        return tuple(map(self._rewritten, messages))

    def _rewritten(self, message: Message) -> Message:
        parts: list[Text | Media] = []
        for part in message.parts:
            if message.role == "assistant" and not isinstance(part, Text):
                if not isinstance(part, Image):
                    raise PromptError(f"messages: gemini answers in words and pictures, found {part.modality} in one")
                parts.append(Text(self.written(part)))
            elif isinstance(part, Video):
                parts += frames_of(part)
            else:
                parts.append(part)
        return replace(message, parts=tuple(parts))

    def written(self, picture: Image) -> str:
        """A picture as its tokens, between the marks."""
        pixels = self.transform(picture.picture)[None].to(next(self.model.generators.parameters()))
        codes = self.model.picture_codes(pixels)[0].flatten().tolist()
        return f"{BEGIN}{''.join(map(code_name, codes))}{END}"


def frames_of(video: Video) -> list[Media]:
    """Up to 16 frames of a video, from the first to the last at equal steps, as pictures."""
    times = video.frame_times
    chosen = np.linspace(0, len(times) - 1, min(FRAMES, len(times))).round().astype(int)
    return [Image(frame) for frame in video.clip(times=[float(times[index]) for index in chosen]).frames]


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """A recording -> log-mel float32 [mels, frames]; MediaError for one that is longer than the window."""

    config: MelConfig

    def __call__(self, recording: Audio) -> Tensor:
        return log_mel(recording.samples(self.config.rate), self.config)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A picture -> float32 [3, side, side]."""

    transform: PublishedTransform

    def __call__(self, picture: Image) -> Tensor:
        return self.transform(picture.picture)


def squared_to(side: int | tuple[int, int]) -> PublishedTransform:
    """Resized to side x side (or height x width), in -1..1, as SigLIP reads pictures."""
    height, width = (side, side) if isinstance(side, int) else side
    return transform_of({"size": {"height": height, "width": width}, "resample": 3}, VIT)


def processor(
    tokenizer: Tokenizer, model: PictureWritingLM, side: int | tuple[int, int], ears: WhisperEncoderConfig, written: int
) -> Processor:
    """side: pixels of pictures that are read; written: of those in answers.

    Raises ConfigError for a tokenizer whose picture tokens are not the rows behind those of text.
    """
    ids = model.spelling.vocabulary.ids("image").tolist()
    names = (BEGIN, END, code_name(0), code_name(len(ids) - 1))
    if lacking := [name for name in names if not tokenizer.knows(name)]:
        raise ConfigError(f"gemini: the tokenizer has no {lacking[0]}; expected {code_name(0)} to "
                          f"{code_name(len(ids) - 1)} and the marks {BEGIN}, {END}")  # fmt: skip
    found = [tokenizer.encode(name) for name in names[2:]]
    if found != [[ids[0]], [ids[-1]]]:
        raise ConfigError(f"gemini: expected picture tokens of ids {ids[0]}..{ids[-1]}, found {found[0]}..{found[1]}")
    mel = MelConfig(mels=ears.mels, seconds=ears.frames / FRAMES_PER_SECOND)
    tower: Any = model.encoders["image"]
    modalities = (
        Modality(name="image", placeholder=PLACEHOLDERS["image"], transform=Pixels(transform=squared_to(side)),
                 tokens=SameCount(tower.config.tokens)),
        Modality(name="audio", placeholder=PLACEHOLDERS["audio"], transform=Spectrogram(config=mel),
                 tokens=SameCount(ears.tokens)),
    )  # fmt: skip
    return Processor(tokenizer=tokenizer, template=gemma(), modalities=modalities,
                     rewrite=MediaAsRead(model=model, transform=squared_to(written)),
                     max_length=model.backbone.config.max_length)  # fmt: skip
