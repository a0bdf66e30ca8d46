"""KOSMOS-1 as a checkpoint: KOSMOS-2's names and config, with xPos; its prompt.

<s><image>64 features</image>paragraph</s>      pictures stand where they are given
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.backbones.kosmos import magneto, with_xpos
from polymodal.checkpoints.kosmos import parts_of
from polymodal.data.template import Special, Template, Turn
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec

TEMPLATE = Template(
    begin=(Special(name="<s>"),),
    turns={"user": Turn(), "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True)},
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A Kosmos2Config dict whose text_config has `xpos_scale_base` -> the model.

    Raises ConfigError for options that are not supported.
    """
    base = (config.get("text_config") or {}).get("xpos_scale_base", 512)
    if not isinstance(base, int | float) or isinstance(base, bool) or not base > 0:
        raise ConfigError(f"kosmos-1: text_config.xpos_scale_base: expected a number above 0, found {str(base)[:40]!r}")
    published = parts_of(config)
    found = replace(published, backbone=with_xpos(published.backbone, base), counted=None)

    def build() -> MultimodalLM:
        model = found.build()
        magneto(model.backbone)
        return model

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        processor = found.processor(files, TEMPLATE, control=("<image>", "</image>"), marks=True)
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=build, keys=(found.keys,), parts=found.drawing, assemble=assemble)
