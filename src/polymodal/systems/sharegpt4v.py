"""ShareGPT4V: LLaVA-1.5 trained on detailed captions, the second half of its vision tower included.

Paper: ShareGPT4V: Improving Large Multi-Modal Models with Better Captions (arXiv 2311.12793).

    picture -> 336 x 336 -> CLIP ViT-L/14 tuned from block 12 on, input of its last block, no class token [N, 576, 1024]
            -> linear, GELU, linear [N, 576, D] -> spliced at id -200 -> Vicuna v1.5 -> text        (fusion type C)

Traps: the tower is not OpenAI's; published checkpoints leave it out and name its repository in `mm_vision_tower`, the
official training writes it into `vision_tower` (`checkpoints/official_llava_parts.py`); conversations begin with
Vicuna's system sentence, LLaVA's with another; pictures are padded to a square, but cropped in the first stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints import official_llava, official_llava_parts
from polymodal.data.chat_formats import VICUNA_SYSTEM, vicuna
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

FIRST_TUNED = 12  # the first block of the tower that learns


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported."""
    return official_llava.parse_official_config(config, official_llava.PromptStyle(template=vicuna(VICUNA_SYSTEM)))


def variant(name: str, parameters: int, width: int, depth: int, heads: int, ffn: int) -> Variant:
    """A published size; its config.json is LLaMA's, and `mm_*`."""
    repository = f"Lin-Chen/ShareGPT4V-{name.upper()}"
    config = {"model_type": "share4v", "architectures": ["Share4VLlamaForCausalLM"], "hidden_size": width,
              "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": heads,
              "intermediate_size": ffn, "vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
              "image_aspect_ratio": "pad", "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu",
              "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
              "mm_vision_select_layer": -2,
              "mm_vision_tower": f"{repository}_Pretrained_vit-large336-l12"}  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=repository, license="Llama 2 community"))  # fmt: skip


SYSTEM = System(
    id="sharegpt4v",
    aliases=("ShareGPT4V", "ShareGPT-4V"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official Share4VLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(model_types=("share4v",), architectures=tuple(official_llava_parts.SHARE4V)),
            gather=lambda files: official_llava_parts.gather(files.folder),
            one_file=True,
        ),
    ),
    variants=(variant("7b", 7_062_902_784, 4096, 32, 32, 11008), variant("13b", 13_350_839_296, 5120, 40, 40, 13824)),
    headline="answers questions about a picture after 1.2 M detailed captions taught it and half of its vision tower",
    reference="arXiv 2311.12793",
    recipe=(
        Stage(
            name="pretrain",
            data=(DataSource(name="ShareGPT4V-PT", kind="image-text pairs", samples=1_246_000),),
            objective=LanguageModeling(),
            train=("connectors.image", "backbone", "encoders.image.blocks"),
            frozen=tuple(f"encoders.image.blocks.{index}" for index in range(FIRST_TUNED)),
            optimizer=AdamW(lr=2e-5, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=256, epochs=1, max_length=2048, precision="bfloat16"),
            start="parts",
            note="the connector starts from LLaVA-1.5's stage `align`",
        ),
        Stage(
            name="finetune",
            data=(DataSource(name="sharegpt4v_mix665k_cap23k", kind="conversations", samples=665_000),),
            objective=LanguageModeling(),
            train=("connectors.image", "backbone"),
            optimizer=AdamW(lr=2e-5, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=128, epochs=1, max_length=2048, precision="bfloat16"),
            start="pretrain",
        ),
    ),
)
