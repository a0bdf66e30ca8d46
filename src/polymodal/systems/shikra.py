"""Shikra: a LLaVA that talks about places, with coordinates as plain numbers of its text.

Paper: Shikra: Unleashing Multimodal LLM's Referential Dialogue Magic (arXiv 2306.15195).

    picture -> square on white -> 224 x 224 -> CLIP ViT-L/14, input of its last block, no class token [N, 256, 1024]
            -> linear [N, 256, D] -> spliced at `<im_patch>` between `<im_start>` and `<im_end>` -> Vicuna -> text
    "What is in [0.100,0.325,0.500,0.575]?" <-> boxes and points of the picture: PLACES                 (fusion type C)

Traps: the border is white, not the mean colour; coordinates count in the padded square; a picture stands anywhere in
the sentence, with nothing around it; the weights are published as differences to LLaMA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints import official_llava, official_llava_parts
from polymodal.data.chat_formats import VICUNA_SYSTEM, vicuna
from polymodal.data.coordinates import CoordinateText
from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFormat,
    ConfigMatch,
    Cosine,
    DataSource,
    LanguageModeling,
    ModelSpec,
    Repository,
    Stage,
    System,
    Variant,
)

PLACES = CoordinateText()
WHITE = (255, 255, 255)
STYLE = official_llava.PromptStyle(template=vicuna(VICUNA_SYSTEM), after=(), border=WHITE, legacy=True)
PLACED = (  # the mixture `concat8` of the published scripts
    DataSource(name="RefCOCO, RefCOCO+, RefCOCOg, Visual Genome, Flickr30k Entities, PointQA, Visual7W, VCR",
               kind="conversations"),
    DataSource(name="LLaVA-CC3M, LCS-558K, VQAv2, VQA-E, VQA-X, COCO captions", kind="conversations"),
)  # fmt: skip
TALKS = (DataSource(name="LLaVA-Instruct-150K and Shikra-RD", kind="conversations"),)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported."""
    return official_llava.parse_official_config(config, STYLE)


def stage(name: str, start: str, epochs: int, data: tuple[DataSource, ...], note: str) -> Stage:
    """The stages differ in what they read alone; all but CLIP learns."""
    return Stage(
        name=name,
        data=data,
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=64, epochs=epochs, max_length=2048, precision="bfloat16"),
        start=start,
        note=note,
    )


CONFIG = {"model_type": "shikra", "architectures": ["ShikraLlamaForCausalLM"], "hidden_size": 4096,
          "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32003,
          "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "mm_vision_tower": "openai/clip-vit-large-patch14",
          "mm_hidden_size": 1024, "mm_vision_select_layer": -2, "mm_use_im_start_end": True}  # fmt: skip
SYSTEM = System(
    id="shikra",
    aliases=("Shikra",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official ShikraLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(model_types=("shikra",), architectures=tuple(official_llava_parts.SHIKRA)),
            gather=lambda files: official_llava_parts.gather(files.folder),
            one_file=True,
        ),
    ),
    variants=(
        Variant(name="7b", parameters=7_045_818_368, config=CONFIG, difference_to="LLaMA",
                repository=Repository(name="shikras/shikra-7b-delta-v1", license="CC BY-NC 4.0; LLaMA")),
        Variant(name="7b-0708", parameters=7_045_818_368, config=CONFIG, difference_to="LLaMA",
                repository=Repository(name="shikras/shikra7b-delta-v1-0708", license="CC BY-NC 4.0; LLaMA")),
    ),
    headline="reads and writes boxes and points of a picture as numbers in its text",
    reference="arXiv 2306.15195",
    recipe=(
        stage("places", "parts", 2, PLACED, "starts from Vicuna v1.1 and the linear of LLaVA-7B-v1.1; 8 a device"),
        stage("dialogue", "places", 3, (*TALKS, *PLACED), "one of ten samples is a dialogue (one of two in `final55`)"),
    ),
)  # fmt: skip
