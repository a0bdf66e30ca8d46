"""MiniGPT-4 (arXiv 2304.10592): BLIP-2's frozen eyes and a frozen Vicuna, joined by one trained linear layer.

    pixel_values -> EVA ViT-g -> ln_vision -> BLIP-2's Q-Former (Flan-T5-XXL's) -> linear [N, 32, D] -> Vicuna
    with LLaMA-2: no Q-Former; 256 features without the class token, joined by fours along a row -> linear [N, 64, D]

    {system}###Human: <Img><ImageHere></Img> {question}###Assistant:          the words around <ImageHere> are
    {system}<s>[INST] <Img><ImageHere></Img> {question} [/INST]                tokenised by themselves

Traps: Vicuna is v0, which stops at `###`; published files hold the linear alone, so the folder needs EVA's file, the
BLIP-2 file and the language model in a subfolder; the id of <ImageHere> lies behind the vocabulary.
"""

from __future__ import annotations

from functools import partial

from polymodal.checkpoints import lavis
from polymodal.systems import (
    CheckpointFormat,
    System,
    hf,
)
from polymodal.systems.minigpt_4.checkpoint import _variant, parse_config
from polymodal.systems.minigpt_4.recipe import RECIPE

SYSTEM = System(
    id="minigpt-4",
    aliases=("MiniGPT-4", "MiniGPT4"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official MiniGPT-4",
            parse_config=parse_config,
            matches=hf("minigpt4"),
            entry=("model", ""),
            gather=partial(lavis.gather, language="llama_model"),
        ),
    ),
    variants=(
        _variant("vicuna-13b", 14_110_861_184, False, 5120, 40, 13824),
        _variant("vicuna-7b", 7_832_625_024, False, 4096, 32, 11008),
        _variant("llama-2-7b", 7_747_385_728, True, 4096, 32, 11008),
    ),
    headline="detailed chat about a picture with a single linear layer trained between frozen models",
    reference="arXiv 2304.10592",
    recipe=RECIPE,
)
