"""Chameleon's official files, each alone: consolidated.pth (decoder of the 7B) and vqgan.ckpt (codec, both ways).

The decoder's ids are those of text and pictures; which is which stands in the tokenizer's file.  The library's
checkpoints have no way from codes back to pixels; the official codec has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import chameleon
from polymodal.generators import vq_codec
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFormat, ModelSpec, hf


def parse_decoder_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `chameleon.official_config` read off the tensors -> a language model without encoders."""
    backbone = chameleon.parse_config(config, shared=True)
    table = chameleon.official_keys(backbone).prefixed("", "backbone.")
    return ModelSpec(build=lambda: MultimodalLM({}, {}, backbone.build(), {}), keys=(table,))


def parse_codec_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `vq_codec.official_config` read off the tensors -> the codec: `encode` and `decode`."""
    codec = vq_codec.parse_config(config, decode=True)
    return ModelSpec(build=codec.build, keys=(vq_codec.keys(codec),))


LAYOUTS = (
    CheckpointFormat(
        name="official consolidated.pth",
        parse_config=parse_decoder_config,
        infer=chameleon.official_config,
        matches=hf("chameleon_official"),
    ),
    CheckpointFormat(
        name="official vqgan.ckpt",
        parse_config=parse_codec_config,
        infer=vq_codec.official_config,
        matches=hf("chameleon_vqgan_official"),
        entry=("state_dict", ""),
    ),
)
