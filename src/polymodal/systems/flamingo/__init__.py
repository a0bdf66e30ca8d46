"""Flamingo: few-shot vision and language, by gated cross-attention between the layers of a frozen language model.

Paper: Flamingo (arXiv 2204.14198).  Neither code nor weights were released; names on disk are OpenFlamingo's.

    vision_x [B, N, frames, 3, 320, 320] -> NFNet-F6, last stage [items, frames, 100, 1536] + frame positions
        -> Perceiver resampler [items, 64, 1536] -> keys and values of the gated blocks              (fusion type A)
    `<image>` once per picture or video: each token sees the last one at or before it
    -> Chinchilla-shaped decoder, a gated block in front of the first layer of each group -> text

Traps: 80 layers in groups of 7 have the paper's 12 gated blocks only if each group begins with one; feed-forward layers
of resampler and gated blocks are squared ReLU; gated blocks have the decoder's heads of 128, the resampler heads of 96;
positions of the decoder are rotary here, see `backbones/chinchilla.py`.
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    ConfigMatch,
    System,
    Variant,
)
from polymodal.systems.flamingo.checkpoint import is_own, parse_config, published
from polymodal.systems.flamingo.recipe import RECIPE

SYSTEM = System(
    id="flamingo",
    aliases=("Flamingo", "Flamingo-80B", "DeepMind Flamingo"),
    year=2022,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image", "video"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="OpenFlamingo's names, NFNet and Chinchilla", parse_config=parse_config,
                         matches=ConfigMatch(score=is_own, model_types=("flamingo",))),
    ),
    variants=(
        Variant(name="3b", parameters=3_032_020_116, config=published(2048, 24, 16, 1)),
        Variant(name="9b", parameters=10_588_781_688, config=published(4096, 40, 32, 4)),
        Variant(name="80b", parameters=73_644_018_812, config=published(8192, 80, 64, 7)),
    ),
    headline="few-shot vision and language: a frozen encoder and a frozen language model, joined by gated blocks",
    reference="arXiv 2204.14198",
    recipe=RECIPE,
)  # fmt: skip
