"""Chameleon's official files, each alone: consolidated.pth (decoder of the 7B) and vqgan.ckpt (codec, both ways).

The decoder's ids are those of text and pictures; which is which stands in the tokenizer's file.  The library's
checkpoints have no way from codes back to pixels; the official codec has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.assemblies.multimodal_lm import MultimodalLM
from polymodal.backbones import chameleon
from polymodal.generators import vq_codec
from polymodal.layouts.record import Layout, Opened, hf


def open_decoder(config: Mapping[str, Any]) -> Opened:
    """What `chameleon.official_config` read off the tensors -> a language model without encoders."""
    backbone = chameleon.of_config(config, shared=True)
    table = chameleon.official_keys(backbone).prefixed("", "backbone.")
    return Opened(build=lambda: MultimodalLM({}, {}, backbone.build(), {}), keys=(table,))


def open_codec(config: Mapping[str, Any]) -> Opened:
    """What `vq_codec.official_config` read off the tensors -> the codec: `encode` and `decode`."""
    codec = vq_codec.of_config(config, decode=True)
    return Opened(build=codec.build, keys=(vq_codec.keys(codec),))


LAYOUTS = (
    Layout(
        name="official consolidated.pth",
        open=open_decoder,
        infer=chameleon.official_config,
        matches=hf("chameleon_official"),
    ),
    Layout(
        name="official vqgan.ckpt",
        open=open_codec,
        infer=vq_codec.official_config,
        matches=hf("chameleon_vqgan_official"),
        entry=("state_dict", ""),
    ),
)
