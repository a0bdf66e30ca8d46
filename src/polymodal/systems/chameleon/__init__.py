"""Chameleon: pictures and text as ids of one vocabulary, in one transformer.

Paper: Chameleon: Mixed-Modal Early-Fusion Foundation Models (arXiv 2405.09818).

    picture -> 512 x 512 -> VQ-GAN -> 32 x 32 codes -> 1024 ids among 65536 -> the one embedding table   (fusion type D)
    ids of text and pictures -> LLaMA-like decoder, queries and keys normed per head -> logits over all ids

Traps: a code's id is found by its token's name (`IMGIMG` and its digits as letters), not by counting; the norms of
queries and keys are layer norms with weights per head; the 34B model norms behind each branch; inference of the release
never writes a picture, its logits of picture ids are the least number; the library's scale of pixels is not the
official one (x * 0.0078 - 1 instead of 2 x / 255 - 1).
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.chameleon import official
from polymodal.systems.chameleon.checkpoint import LICENSE, parse_config, published
from polymodal.systems.chameleon.recipe import RECIPE

SYSTEM = System(
    id="chameleon",
    aliases=("Chameleon", "Chameleon-7B", "Chameleon-34B"),
    year=2024,
    fusion=("D",),
    assembly="DiscreteTokenLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers ChameleonForConditionalGeneration", parse_config=parse_config,
               matches=hf("chameleon", "ChameleonForConditionalGeneration")),
        *official.LAYOUTS,
    ),
    variants=(
        Variant(name="7b", parameters=7_043_090_432, config=published(hidden_size=4096, num_hidden_layers=32),
                repository=Repository(name="facebook/chameleon-7b", license=LICENSE)),
        Variant(name="34b", parameters=34_323_732_480,
                repository=Repository(name="facebook/chameleon-30b", license=LICENSE),
                config=published(hidden_size=8192, num_hidden_layers=48, num_attention_heads=64, num_key_value_heads=8,
                                 intermediate_size=22016, swin_norm=True, model_parallel_size=4)),
    ),
    headline="one transformer over interleaved pictures and text, both as ids of one vocabulary",
    reference="arXiv 2405.09818",
    recipe=RECIPE,
)  # fmt: skip
