"""Published checkpoints of KOSMOS-2: config to model, processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.checkpoints.kosmos import parts_of
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import Special, Template, Turn
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
)
from polymodal.systems.kosmos_2.patch_boxes import ground

TEMPLATE = Template(
    begin=(Special(name="<s>"),),
    turns={
        "picture": Turn(before=(Special(name="<image>"),), after=(Special(name="</image>"),)),
        "user": Turn(before=(Special(name="<grounding>"),)),
        "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    },
)
# Published as ordinary added words; what phrases and boxes are written with stays ordinary, so that it is read.
CONTROL = ("<image>", "</image>", "<grounding>")


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A Kosmos2Config dict -> the model; raises ConfigError for options that are not supported."""
    found = parts_of(config)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        processor = found.processor(files, TEMPLATE, control=CONTROL, rewrite=picture_first)
        return LoadedModel(model=module, processor=processor, ground=ground)

    return ModelSpec(build=found.build, keys=(found.keys,), parts=found.drawing, assemble=assemble)


def picture_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Every picture in a turn of its own in front of the words."""
    pictures = tuple(Message(role="picture", parts=(part,)) for message in messages for part in message.media)
    return pictures + tuple(Message(role=message.role, parts=(Text(message.text),)) for message in messages)
