"""IDEFICS: the open reproduction of Flamingo; pictures anywhere in a text, seen through gated cross-attention.

Paper: OBELICS (arXiv 2306.16527).

    pixel_values [B, N, 3, H, W] -> CLIP ViT-H/14, all tokens, not normed after [items, 257, 1280]
        -> (Perceiver resampler [items, 64, 1280]) -> keys and values of the gated blocks            (fusion type A)
    input_ids, image_attention_mask [B, T, N] -> LLaMA, a gated block in FRONT of every `cross_layer_interval`-th layer

Traps: the gated blocks lie in a list of their own, numbered by group; the added words have an embedding and a head of
their own; norms on queries and keys exist in the gated blocks only; a text without any picture still passes the gated
feed-forward layers; pictures next to each other share the token between them.
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    System,
    hf,
)
from polymodal.systems.idefics.checkpoint import _9B, _80B, _variant, parse_config
from polymodal.systems.idefics.recipe import RECIPE

SYSTEM = System(
    id="idefics",
    aliases=("IDEFICS", "IDEFICS-9B", "IDEFICS-80B", "IDEFICS-instruct"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers IdeficsForVisionText2Text", parse_config=parse_config,
               matches=hf("idefics", "IdeficsForVisionText2Text")),
    ),
    variants=(
        _variant("9b", 8_929_745_152, _9B, 2),
        _variant("9b-instruct", 8_929_753_344, _9B, 3),
        _variant("80b", 79_968_171_264, _80B, 2),
        _variant("80b-instruct", 79_968_187_648, _80B, 3),
    ),
    headline="answers about any sequence of pictures and text, by examples given in the prompt or as a dialogue",
    reference="arXiv 2306.16527",
    recipe=RECIPE,
)  # fmt: skip
