"""How LWM's prompts are written, and what its frames are cut from.

    You are a helpful assistant. USER: {question}\\n | <vision> | codes | </vision> | ASSISTANT:      a picture or video
    You are a helpful assistant. USER: {question} ASSISTANT:                                          text alone

Trap: the official code tokenises the pieces between the bars one by one, each with whatever the folder's tokenizer puts
in front of a text, and the first begins with a further `<s>`.  `<vision>` is no token but seven letters and two signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from polymodal.data.media import Video
from polymodal.data.modalities import sequences
from polymodal.data.processor import Modality
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words, Written
from polymodal.data.transforms import ShorterSideCrop, transform_frames

SYSTEM_WORDS = "You are a helpful assistant."
FRAMES = 8  # of a video, where the official demonstration is not told another number


def template(before: Sequence[str] = (), begin: Sequence[str] = ("<s>",)) -> Template:
    """before: tokens in front of every piece that is tokenised apart; begin: in front of the whole.

    Further turns are not published: an answer ends in `</s>`, and the next question begins as the first.
    """
    return Template(
        begin=(*_specials(before), *_specials(begin)),
        turns={
            "system": Turn(),
            "user": Turn(before=(Words(text=" USER: "),)),
            "assistant": Turn(before=(Words(text=" ASSISTANT:"), Words(text=" ", loss_mask=True)),
                              after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
        },
        ask=(Words(text=" ASSISTANT:"),),
        default_system=SYSTEM_WORDS,
    )  # fmt: skip


def _specials(names: Sequence[str]) -> tuple[Special, ...]:
    return tuple(Special(name=name) for name in names)


@dataclass(frozen=True, kw_only=True)
class FramesUpTo:
    """All frames of a video, or `count` of them at equal steps from the first to the last -> float32 [F, 3, H, W]."""

    transform: ShorterSideCrop
    count: int = FRAMES

    def __call__(self, video: Video) -> Tensor:
        times = video.frame_times
        length = len(times)
        chosen = range(length) if length <= self.count else np.linspace(0, length - 1, self.count, dtype=int).tolist()
        return transform_frames(self.transform, video.clip(times=[float(times[i]) for i in chosen]).frames)


@dataclass(frozen=True)
class FrameCount:
    """Ids of a picture [3, H, W] or of frames [F, 3, H, W]: the codes of each frame and its mark."""

    codes: int

    def __call__(self, values: Tensor) -> int:
        return (len(values) if values.dim() == 4 else 1) * (self.codes + 1)


def modalities(side: int, codes: int, placeholders: tuple[int, int], before: Sequence[str]) -> tuple[Modality, ...]:
    """Pictures and videos of `side` pixels, `codes` ids a frame.  placeholders: ids outside the vocabulary."""
    cut = ShorterSideCrop(size=side, crop=side, crop_rounding="even", mean=(0.5,) * 3, std=(0.5,) * 3)
    apart: tuple[Written, ...] = (TEXT_START, *_specials(before))
    around: dict[str, Any] = {"before": (Words(text="\n"), *apart, Words(text="<vision>")),
              "after": (*apart, Words(text="</vision>"), *apart), "tokens": FrameCount(codes)}  # fmt: skip
    image, video = placeholders
    return (
        Modality(name="image", placeholder="<image>", placeholder_id=image, transform=cut, **around),
        Modality(name="video", placeholder="<video>", placeholder_id=video, transform=FramesUpTo(transform=cut),
                 collate=sequences("video_values", "frame_counts"), **around),
    )  # fmt: skip
