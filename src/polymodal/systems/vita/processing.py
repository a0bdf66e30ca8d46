"""How VITA reads messages: system words by what is shown, pictures first and sound last, a state before each answer.

    message -> pictures and frames, line end, words, recordings
    answer -> <1> what was said to the model | <2> what was not meant for it | <3> what was typed, then the words

Traps: official code tokenises the pieces between items by calls of their own; a video is its frames, without padding or
tiles; a batch of the official code lets the model hear the padding behind a shorter recording, here each is as alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.checkpoints.clips import second_of
from polymodal.data.hf_image import PublishedTransform
from polymodal.data.kaldi import POVEY, fbank
from polymodal.data.media import Audio, Image, Text, Video
from polymodal.data.messages import Message
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.data.transforms import transform_frames
from polymodal.encoders.whale import features_of
from polymodal.errors import MediaError

QUERY, NOISE, TYPED = "<1>", "<2>", "<3>"
STATES = (QUERY, NOISE, TYPED)
RATE, FRAMES = 16_000, (4, 16)  # frames of a video: at least, at most
END = "</s>"
LANGUAGE = (
    "You are an AI robot and your name is VITA. \n- You are a multimodal large language model developed by the open "
    "source community. Your aim is to be helpful, honest and harmless. \n- You support the ability to communicate "
    "fluently and answer user questions in multiple languages of the user's choice. \n- If the user corrects the wrong "
    "answer you generated, you will apologize and discuss the correct answer with the user."
)
SHOWN = (
    " \n- You must answer the question strictly according to the content of the {0} given by the user, and it is "
    "strictly forbidden to answer the question without the content of the {0}. Please note that you are seeing the "
    "{0}, not the {1}."
)


def system_words(messages: Sequence[Message]) -> str:
    """The published system message for what a conversation shows; a video counts before a picture."""
    kinds = {type(item) for message in messages for item in message.media}
    if Video in kinds:
        return LANGUAGE + SHOWN.format("video", "image")
    return LANGUAGE + SHOWN.format("image", "video") if Image in kinds else LANGUAGE


def prepared(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation as it is rendered: with a system message, parts in order, and the state of each answer."""
    made, heard = [], False
    for message in messages:
        if message.role == "assistant":
            state, words = read_state(message.text)
            state = state or (QUERY if heard else TYPED)
            made.append(replace(message, role=f"assistant {state}", parts=(Text(words),)))
            continue
        parts = sorted(message.parts, key=lambda part: 1 if isinstance(part, Text) else 2 * isinstance(part, Audio))
        heard = any(isinstance(part, Audio) for part in parts)
        made.append(replace(message, parts=tuple(parts)))
    if messages and messages[0].role != "system":
        made.insert(0, Message(role="system", parts=(Text(system_words(messages)),)))
    return tuple(made)


def read_state(text: str) -> tuple[str | None, str]:
    """An answer -> its state token, None without one, and the words behind it."""
    words = text.lstrip()
    for state in STATES:
        if words.startswith(state):
            return state, words.removeprefix(state).lstrip()
    return None, text


def template(special: bool) -> Template:
    """system:...</s> user:...</s> bot:...</s>, a line each; special: whether states are tokens of the vocabulary."""
    end = (Special(name=END),)

    def answer(state: str) -> Turn:
        mark = Special(name=state, loss_mask=True) if special else Words(text=state, loss_mask=True)
        return Turn(before=(*ask, mark), after=(Special(name=END, loss_mask=True),), loss_mask=True)

    ask = (Words(text="\nbot:"),)
    turns = {"system": Turn(before=(Words(text="system:"),), after=end),
             "user": Turn(before=(Words(text="\nuser:"),), after=end),
             **{f"assistant {state}": answer(state) for state in STATES}}  # fmt: skip
    return Template(turns=turns, begin=(Special(name="<s>"), TEXT_START), ask=ask)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A recording -> its filter banks float32 [frames, mels]; positions: the most features that are read."""

    mels: int
    positions: int

    def __call__(self, recording: Audio) -> Tensor:
        """MediaError for a recording that is too short for one feature or longer than the positions."""
        samples = recording.samples(RATE)
        frames = max(0, (len(samples) - RATE // 40) // (RATE // 100) + 1)
        if not 1 <= features_of(frames) <= self.positions:
            most = 4 * self.positions + 6
            raise MediaError(
                f"{recording!r}: {len(samples) / RATE:.2f} s of sound, this model takes 0.09 to {most / 100:g} s; "
                "cut it into pieces"
            )
        return fbank(torch.from_numpy(samples) * 2.0**15, self.mels, RATE, power=POVEY)


def sounds(items: Sequence[Tensor]) -> dict[str, Any]:
    """`audios` [N, frames, mels], zero behind each, and `audio_lengths`, on the host."""
    return {"audios": pad_sequence(list(items), batch_first=True), "audio_lengths": tuple(map(len, items))}


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """A video -> 4 to 16 of its frames float32 [F, 3, side, side], one a second where there are as many."""

    transform: PublishedTransform

    def __call__(self, video: Video) -> Tensor:
        times = video.frame_times
        chosen = [float(times[i]) for i in frame_numbers(len(times), second_of(times))]
        return transform_frames(self.transform, video.clip(times=chosen).frames)


def frame_numbers(length: int, step: int) -> list[int]:
    """Every `step`-th of `length` frames; where that is too few or too many, spread over those."""
    found = list(range(0, length, step))
    few, many = FRAMES
    if few <= len(found) <= many:
        return found
    spread = np.linspace(0, len(found) - 1, num=many if len(found) > many else few, dtype=int)
    return [found[i] for i in spread]
