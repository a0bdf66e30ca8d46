"""How X-LLM reads messages: what is shown and what is heard in front of one question, each between its tags.

    picture | video of 10 frames, one a second, and an utterance -> <Image>..</Image><Speech>..</Speech>
    an utterance is its acoustic features as numbers, or sound where the model has a speech encoder

Traps: tags are tokenised by calls of their own; how many tokens a recording takes is known once it has been encoded, so
it is encoded when it is prepared, and by the model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.checkpoints.clips import second_of
from polymodal.checkpoints.qformer_chat import PICTURE
from polymodal.connectors.bert_adaptor import BertAdaptorConfig
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.kaldi import POVEY, fbank
from polymodal.data.media import Array, Audio, Image, Media, Text, Video
from polymodal.data.messages import Message
from polymodal.data.modalities import sequences
from polymodal.data.processor import Modality
from polymodal.data.template import TEXT_START, Words
from polymodal.data.transforms import ShorterSideCrop, transform_frames
from polymodal.encoders.cif_conformer import CifConformer
from polymodal.errors import MediaError, PromptError
from polymodal.systems import CheckpointFiles

TAGS = {"image": "Image", "video": "Video", "features": "Speech", "audio": "Speech"}
FRAMES, RATE = 10, 16_000  # frames of a video at most
ASK, ANSWER = "\u95ee\uff1a", "\n\u7b54\uff1a"


def one_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation as one question: what is shown, what is heard, then the words, by rounds from the second on.

    Raises PromptError for a second picture or video, or a second utterance.
    """
    media = [part for message in messages for part in message.media]
    shown = [item for item in media if isinstance(item, Image | Video)]
    heard = [item for item in media if not isinstance(item, Image | Video)]
    if len(shown) > 1 or len(heard) > 1:
        raise PromptError(
            "messages: this model takes 1 picture or video and 1 utterance, in front of the conversation; found "
            f"{len(shown)} and {len(heard)}"
        )
    answered = messages[-1].role == "assistant"
    rounds = messages[:-1] if answered else messages
    numbered = sum(message.role != "assistant" for message in rounds) > 1
    said, count = "", 0
    for message in rounds:
        if message.role == "assistant":
            said += f"{message.text}\n"
        else:
            said += (f"[Round {count}]\n" if numbered else "") + f"{ASK}{message.text}{ANSWER}"
            count += 1
    parts: tuple[Text | Media, ...] = (*shown, *heard, Text(said))
    question = Message(role="user", parts=parts)
    return (question, replace(messages[-1], parts=(Text(messages[-1].text),))) if answered else (question,)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A video -> float32 [F, 3, side, side]: a frame a second from its first on, at most FRAMES of them."""

    transform: ShorterSideCrop

    def __call__(self, video: Video) -> Tensor:
        times = video.frame_times
        chosen = [float(time) for time in times[:: second_of(times)][:FRAMES]]
        return transform_frames(self.transform, video.clip(times=chosen).frames)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """The acoustic features of an utterance, float32 [T, width]; longest: rows at most."""

    width: int
    longest: int | None

    def __call__(self, item: Array) -> Tensor:
        """MediaError for numbers of another shape, or too many rows."""
        values = torch.as_tensor(item.values, dtype=torch.float32)
        if values.dim() != 2 or values.shape[1] != self.width or not len(values):
            raise MediaError(f"{item!r}: expected rows of {self.width} features, found {list(values.shape)}")
        if self.longest is not None and len(values) > self.longest:
            raise MediaError(
                f"{item!r}: {len(values)} rows of features, this model takes {self.longest} at most; cut the utterance"
            )
        return values


@dataclass(frozen=True)
class Rows:
    """As many tokens as rows, times `each`."""

    each: int = 1

    def __call__(self, values: Tensor) -> int:
        return len(values) * self.each


def padded(items: Sequence[Tensor]) -> dict[str, Any]:
    """`speech_input` [N, T, width], zero behind each, and `speech_lengths`, on the host."""
    return {"speech_input": nn.utils.rnn.pad_sequence(list(items), batch_first=True),
            "speech_lengths": tuple(map(len, items))}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Banks:
    """A recording -> its filter banks float32 [frames, mels], each bin of mean 0 and deviation 1 over the recording."""

    mels: int

    def __call__(self, recording: Audio) -> Tensor:
        banks = fbank(torch.from_numpy(recording.samples(RATE)) * 2.0**15, self.mels, RATE, power=POVEY)
        return (banks - banks.mean(0)) / banks.std(0, unbiased=False).clamp_min(1e-5)


class Fired:
    """How many features the encoder fires for filter banks; longest: rows at most."""

    def __init__(self, encoder: CifConformer, longest: int | None) -> None:
        self.encoder, self.longest = encoder, longest

    @torch.inference_mode()
    def __call__(self, banks: Tensor) -> int:
        """MediaError for a recording with too many of them, or without any."""
        device = self.encoder.conv_proj.weight.device
        count = len(self.encoder(banks[None].to(device), [len(banks)])[0])
        if self.longest is not None and count > self.longest:
            raise MediaError(f"speech: {count} acoustic tokens, this model takes {self.longest} at most; cut it")
        return count


def sounds(items: Sequence[Tensor]) -> dict[str, Any]:
    """`audio_values` [N, frames, mels], zero behind each, and `audio_frames`, on the host."""
    return {"audio_values": nn.utils.rnn.pad_sequence(list(items), batch_first=True),
            "audio_frames": tuple(map(len, items))}  # fmt: skip


def modalities(
    files: CheckpointFiles, side: int, queries: int, heard: BertAdaptorConfig, encoder: CifConformer | None
) -> dict[str, dict[str, Any]]:
    """How each modality enters the sequence, but for the place of its features."""
    still = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
    moving = Frames(transform=ShorterSideCrop(size=side, crop=side, crop_rounding="even"))
    spoken = Spoken(width=heard.in_width, longest=heard.longest)
    rules: dict[str, dict[str, Any]] = {
        "image": {"transform": still, "tokens": SameCount(queries)},
        "video": {"transform": moving, "tokens": Rows(queries), "collate": sequences("video_values", "frame_counts")},
        "features": {"transform": spoken, "tokens": Rows(), "collate": padded},
    }
    if encoder is not None:
        rules["audio"] = {"transform": Banks(mels=encoder.config.mels), "tokens": Fired(encoder, heard.longest),
                          "collate": sounds}  # fmt: skip
    return rules


def placed(rules: Mapping[str, Mapping[str, Any]], places: Mapping[str, int]) -> tuple[Modality, ...]:
    """The modalities between their tags; places: the ids at which their features stand."""
    return tuple(
        Modality(name=name, placeholder="", placeholder_id=places[name], before=(Words(text=f"<{TAGS[name]}>"),),
                 after=(TEXT_START, Words(text=f"</{TAGS[name]}>"), TEXT_START), **rule)
        for name, rule in rules.items()
    )  # fmt: skip
