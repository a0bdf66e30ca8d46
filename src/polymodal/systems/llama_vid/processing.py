"""How LLaMA-VID reads messages: pictures as one frame, videos one frame a second, each with the words beside it.

    message with media -> its words without line ends -> bert-base-uncased -> the Q-Former's question for each of them

Traps: official inference asks a picture anew with the last question of the conversation; here, as in training, it is
seen with the words of its own message.  Frames of videos are cropped, never padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.checkpoints.clips import second_of
from polymodal.data.hf_image import CLIP, squared, transform_of
from polymodal.data.media import Media, Text, Video
from polymodal.data.messages import Message
from polymodal.data.processor import Modality
from polymodal.data.template import TEXT_START, Written
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import ImageTransform, transform_frames

LONGEST = 256  # ids of a question, its first words left out beyond


@dataclass(frozen=True)
class Asked(Media):
    """An item with the words of its message."""

    item: Media
    question: str

    @property
    def modality(self) -> str:  # type: ignore[override]
        """The item's."""
        return self.item.modality


def with_questions(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation whose items carry the words of their messages, without line ends."""

    def asked(message: Message) -> Message:
        words = message.text.replace("\n", "")
        parts = (part if isinstance(part, Text) else Asked(part, words) for part in message.parts)
        return replace(message, parts=tuple(parts))

    return tuple(map(asked, messages))


@dataclass(frozen=True)
class Frames:
    """An item and its question -> frames [F, 3, H, W] and the ids that the Q-Former reads, int64 [L].

    still, moving: what is done to a picture, and to each frame of a video.
    """

    still: ImageTransform
    moving: ImageTransform
    reader: Tokenizer

    def __call__(self, asked: Asked) -> dict[str, Tensor]:
        ids = self.reader.encode(asked.question)[-(LONGEST - 2) :]
        question = torch.tensor([self.reader.special("[CLS]"), *ids, self.reader.special("[SEP]")])
        return {"frames": self._frames(asked.item), "question": question}

    def _frames(self, item: Any) -> Tensor:
        if not isinstance(item, Video):
            return self.still(item)[None]
        times = item.frame_times
        return transform_frames(self.moving, item.clip(times=times[:: second_of(times)].tolist()).frames)


@dataclass(frozen=True)
class FrameCount:
    """So many tokens for each frame of an item."""

    tokens: int

    def __call__(self, values: Mapping[str, Tensor]) -> int:
        return len(values["frames"]) * self.tokens


def collate_images(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Frames and questions of pictures -> pixel_values, qformer_input_ids, qformer_attention_mask."""
    return {"pixel_values": torch.cat([item["frames"] for item in items]), **_questions(items, "")}


def collate_videos(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Frames and questions of videos -> video_values, frame_counts and the questions, named video_qformer_*."""
    counts = tuple(len(item["frames"]) for item in items)
    values = torch.cat([item["frames"] for item in items])
    return {"video_values": values, "frame_counts": counts, **_questions(items, "video_")}


def _questions(items: Sequence[Mapping[str, Tensor]], prefix: str) -> dict[str, Tensor]:
    ids = [item["question"] for item in items]
    return {
        f"{prefix}qformer_input_ids": pad_sequence(ids, batch_first=True),
        f"{prefix}qformer_attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }


def modalities(
    side: int, tokens: int, padded: bool, after: tuple[Written, ...], placeholders: Mapping[str, int], reader: Tokenizer
) -> tuple[Modality, ...]:
    """Pictures, padded to a square or cropped, and videos; tokens: of a frame; reader: the Q-Former's tokenizer."""
    sizes = {**CLIP, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    frames = Frames(squared({"do_pad": padded}, sizes), transform_of({}, sizes), reader)
    collates = {"image": collate_images, "video": collate_videos}
    return tuple(
        Modality(name=name, placeholder="", placeholder_id=placeholders[name], after=(TEXT_START, *after),
                 transform=frames, tokens=FrameCount(tokens), collate=collate)
        for name, collate in collates.items()
    )  # fmt: skip
