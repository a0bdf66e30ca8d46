"""How BuboGPT answers messages.

a sound -> 6 clips of 5 seconds spread evenly and the whole of it, each squeezed to 204 columns; a picture -> centre cut
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.imagebind_inputs import AUDIO_MEAN, AUDIO_STD, RATE, clip_starts
from polymodal.data.item_rules import SameCount
from polymodal.data.kaldi import fbank
from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.data.transforms import ShorterSideCrop
from polymodal.systems import CheckpointFiles, LoadedModel

CLIPS, SECONDS, MELS, COLUMNS = 6, 5, 128, 204
ADDED = ("<VisionHere>", "<AudioHere>")
SYSTEM_WORDS = (
    "Give the following image: <Vision>ImageContent</Vision> or audio: <Audio>AudioContent</Audio>. "
    "You will be able to see the image/audio once I provide it to you. Please answer my questions."
)
ASKED = Words(text="Assistant:")
TEMPLATE = Template(
    turns={
        "user": Turn(before=(Words(text="Human: "),), after=(Words(text="###"),)),
        "assistant": Turn(before=(ASKED, Words(text=" ", loss_mask=True)), after=(Words(text="###", loss_mask=True),),
                          loss_mask=True),
    },
    begin=(Special(name="<s>"), TEXT_START, Words(text=f"{SYSTEM_WORDS}###")),
    ask=(ASKED,),
)  # fmt: skip


def uploaded(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Every item in a turn of its own, the last of a message with its words behind a space."""
    turns: list[Message] = []
    for message in messages:
        words = "".join(part.text for part in message.parts if isinstance(part, Text))
        shown = [part for part in message.parts if not isinstance(part, Text)]
        turns += [replace(message, parts=(item,)) for item in shown[:-1]]
        said = (Text(f" {words}" if shown else words),) if words or not shown else ()
        turns.append(replace(message, parts=(*shown[-1:], *said)))
    return tuple(turns)


def clips_of(samples: Tensor) -> Tensor:
    """Mono samples [n] at 16 kHz -> [7, 1, 128, 204].

    A sound shorter than a clip is repeated to its length.  The official code takes the mean off each clip in place, so
    that a clip begins with what the one before it has left; so it is here.
    """
    wanted = SECONDS * RATE
    if 0 < len(samples) <= wanted:
        samples = samples.repeat(wanted // len(samples) + 1)[:wanted]
    samples = samples.clone() if len(samples) else torch.zeros(wanted)
    starts = [int(start * RATE) for start in clip_starts(len(samples) / RATE, CLIPS, SECONDS)]
    found = []
    for piece in [*(samples[start : start + wanted] for start in starts), samples]:
        piece -= piece.mean()
        banks = fbank(piece, MELS, RATE).T[None, None]
        if banks.shape[-1] > COLUMNS:
            banks = F.interpolate(banks, size=(MELS, COLUMNS), mode="bilinear", align_corners=False)
        found.append((F.pad(banks[0], (0, COLUMNS - banks.shape[-1])) - AUDIO_MEAN) / AUDIO_STD)
    return torch.stack(found)


def hear(item: Audio) -> Tensor:
    """Sound -> float32 [7, 1, 128, 204]."""
    return clips_of(torch.from_numpy(item.samples(RATE)))


def assemble(side: int, tokens: int) -> Callable[[Any, CheckpointFiles], LoadedModel]:
    """What a loaded model needs to answer messages; tokens: features of a picture and of a sound."""

    def joined(module: Any, files: CheckpointFiles) -> LoadedModel:
        def marked(tag: str) -> dict[str, Any]:
            return {"before": (Words(text=f"<{tag}>"),), "after": (TEXT_START, Words(text=f"</{tag}>"))}

        seen = ShorterSideCrop(size=side, crop=side, crop_rounding="even")
        image = Modality(name="image", placeholder=ADDED[0], transform=seen, tokens=SameCount(tokens),
                         **marked("Vision"))  # fmt: skip
        audio = Modality(name="audio", placeholder=ADDED[1], transform=hear, tokens=SameCount(tokens),
                         **marked("Audio"))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(added=ADDED), template=TEMPLATE, modalities=(image, audio),
                              rewrite=uploaded)  # fmt: skip
        return LoadedModel(model=module, processor=processor, stop=("###",))

    return joined
