"""How VideoChat answers messages.

a video -> 8 frames by their numbers, shorter side 224, centre cut -> features, then when the frames were taken
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text, Video
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words, Written
from polymodal.data.transforms import ShorterSideCrop, Squash, transform_frames
from polymodal.systems import CheckpointFiles, LoadedModel

FRAMES = 8
ADDED = ("<VideoHere>", "<ImageHere>")
ASKED = Words(text="###Assistant:")
USER = Turn(before=(Words(text="###Human: "),), after=(Words(text=" "),))
TEMPLATE = Template(
    turns={
        "user": USER,
        "assistant": Turn(before=(ASKED, Words(text=" ", loss_mask=True)), after=(Words(text=" ###", loss_mask=True),),
                          loss_mask=True),
    },
    following={("assistant", "user"): replace(USER, before=(Words(text="Human: "),))},
    begin=(Special(name="<s>"), TEXT_START),
    ask=(ASKED,),
)  # fmt: skip
"""`###Human: media ###Human: Q ###Assistant: A ###`, as training has it: spaces where the demo breaks lines."""


def media_apart(messages: Sequence[Message]) -> tuple[Message, ...]:
    """What is shown in a turn of its own, in front of what is said with it."""
    turns: list[Message] = []
    for message in messages:
        words = "".join(part.text for part in message.parts if isinstance(part, Text))
        shown = tuple(part for part in message.parts if not isinstance(part, Text))
        if shown:
            turns.append(replace(message, parts=shown))
        if words or not shown:
            turns.append(replace(message, parts=(Text(words),)))
    return tuple(turns)


def frame_numbers(count: int, wanted: int = FRAMES) -> list[int]:
    """Which of `count` frames are taken, first to last: the middle of equal parts, rounded half to even."""
    part = (count - 1) / wanted
    return [int(part / 2) + int(np.round(part * index)) for index in range(wanted)]


def frames_of(item: Video, side: int) -> dict[str, torch.Tensor]:
    """`frames` float32 [8, 3, side, side] and the `seconds` [8] at which they are shown."""
    numbers = frame_numbers(len(item.frame_times))
    pixels, seconds = item.clip(times=item.frame_times[numbers].tolist())
    transform = ShorterSideCrop(size=side, crop=side, crop_rounding="even")
    return {"frames": transform_frames(transform, pixels), "seconds": torch.from_numpy(np.asarray(seconds))}


def stacked(items: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([item["frames"] for item in items])


def told(item: dict[str, torch.Tensor]) -> tuple[Written, ...]:
    """What stands behind the features of a video."""
    seconds = ", ".join(str(round(second, 1)) for second in item["seconds"].tolist())
    said = f"</Video> The video contains {len(item['seconds'])} frames sampled at {seconds} seconds."
    return (TEXT_START, Words(text=said))


def assemble(side: int, tokens: int) -> Callable[[Any, CheckpointFiles], LoadedModel]:
    """What a loaded model needs to answer messages; tokens: features of a video or picture."""

    def joined(module: Any, files: CheckpointFiles) -> LoadedModel:
        still = Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD)
        video = Modality(name="video", placeholder=ADDED[0], transform=partial(frames_of, side=side), collate=stacked,
                         tokens=SameCount(tokens), before=(Words(text="<Video>"),), after=told)  # fmt: skip
        image = Modality(name="image", placeholder=ADDED[1], transform=still, tokens=SameCount(tokens),
                         before=(Words(text="<Image>"),), after=(TEXT_START, Words(text="</Image>")))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(added=ADDED), template=TEMPLATE, modalities=(video, image),
                              rewrite=media_apart)  # fmt: skip
        return LoadedModel(model=module, processor=processor, stop=("###",))

    return joined
