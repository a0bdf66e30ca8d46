"""How Video-LLaMA answers messages.

frames 8, spread evenly, both sides at once to 224; sound in 8 clips of 2 seconds; the words of the demo
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from polymodal.data.imagebind_inputs import audio_values
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Audio, Video
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.data.transforms import Squash, transform_frames
from polymodal.systems import CheckpointFiles, LoadedModel

FRAMES, CLIPS = 8, 8
ADDED = ("<ImageHere>", "<AudioHere>", "<StillHere>")
SYSTEM_WORDS = (
    "You are able to understand the visual content that the user provides. Follow the instructions carefully and "
    "explain your answers in detail."
)
LLAMA_2_WORDS = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
HEARD_BEFORE = "Close your eyes, open your ears and you imagine only based on the sound that: "
HEARD_AFTER = ".                 Close your ears, open your eyes and you see that "


def template(llama_2: bool = False, system: str = SYSTEM_WORDS) -> Template:
    """`system###Human: ...###Assistant: ...###`, or LLaMA-2's `[INST] <<SYS>>`."""
    if llama_2:
        begin = (Special(name="<s>"), TEXT_START, Words(text=f"[INST] <<SYS>>\n{LLAMA_2_WORDS}\n<</SYS>>\n\n"))
        user = Turn(after=(Words(text=" [/INST]"),))
        answer = Turn(
            before=(Words(text=" "),), after=(Words(text=" "), Special(name="</s>", loss_mask=True)), loss_mask=True
        )
        return Template(turns={"user": user, "assistant": answer}, begin=begin)
    user = Turn(before=(Words(text="Human: "),), after=(Words(text="###"),))
    asked, space = Words(text="Assistant:"), Words(text=" ", loss_mask=True)
    answer = Turn(before=(asked, space), after=(Words(text="###", loss_mask=True),), loss_mask=True)
    return Template(
        turns={"user": user, "assistant": answer},
        begin=(Special(name="<s>"), TEXT_START, Words(text=f"{system}###")),
        ask=(asked,),
    )


def frames_of(item: Video, side: int) -> Tensor:
    """8 frames at int(i * length / 8) -> float32 [8, 3, side, side], resized without regard to proportions."""
    # Sampling takes the middle of equal parts; the first of every 16 thin parts is where an eighth begins.
    pixels, _ = item.clip(frames=FRAMES * 16)
    return transform_frames(Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD), pixels[::16])


def assemble(side: int, seen: int, heard: int) -> Callable[[Any, CheckpointFiles], LoadedModel]:
    """What a loaded model needs to answer messages; `seen`, `heard`: features of a video and of a sound."""

    def joined(module: Any, files: CheckpointFiles) -> LoadedModel:
        def marked(tag: str) -> dict[str, Any]:
            return {"before": (Words(text=f"<{tag}>"),), "after": (TEXT_START, Words(text=f"</{tag}> "))}

        still = Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD)
        modalities = [
            Modality(name="video", placeholder=ADDED[0], transform=partial(frames_of, side=side),
                     tokens=SameCount(seen), **marked("Video")),
            Modality(name="image", placeholder=ADDED[2], transform=still, tokens=SameCount(seen),
                     **marked("Image")),
        ]  # fmt: skip
        if heard:
            modalities.append(
                Modality(name="audio", placeholder=ADDED[1], transform=hear, tokens=SameCount(heard),
                         before=(Words(text=HEARD_BEFORE),), after=(TEXT_START, Words(text=HEARD_AFTER)))
            )  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(added=ADDED), template=template(), modalities=modalities)
        return LoadedModel(model=module, processor=processor, stop=("###",))

    return joined


def hear(item: Audio) -> Tensor:
    """Sound -> float32 [8, 1, 128, 204]."""
    return audio_values(item, clips=CLIPS)
