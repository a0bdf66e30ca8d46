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
    Stage,
    System,
    hf,
)
from polymodal.systems.minigpt_4.checkpoint import _variant, parse_config

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
    recipe=(
        Stage(
            name="pretrain",
            data="LAION, CC3M and SBU captions, about 5M pairs",
            objective="next token of the caption",
            train=("connectors.image.proj",),
            lr=1e-4,
            batch=256,
            steps=20_000,
            warmup=5000,
            final=0.8,
            weight_decay=0.05,
        ),
        Stage(
            name="align",
            data="cc_sbu_align, 3439 curated descriptions",
            objective="next token of the description",
            train=("connectors.image.proj",),
            lr=3e-5,
            batch=12,
            steps=1000,
            warmup=200,
            final=0.33,
            weight_decay=0.05,
        ),
    ),
)
