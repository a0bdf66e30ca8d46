"""LLaVA (v1): visual instruction tuning; one linear map from CLIP's patches to words of the language model.

Paper: Visual Instruction Tuning (arXiv 2304.08485).

    picture -> 224 x 224 -> CLIP ViT-L/14, input of its last block, no class token [N, 256, 1024]
            -> linear [N, 256, D] -> spliced at id -200, or at `<im_patch>` -> Vicuna -> text        (fusion type C)

Traps: only the official format exists, and it leaves the vision tower out (`checkpoints/official_llava_parts.py`); v0
puts the picture behind the question, v1 before it; the first checkpoints expect `<im_start>` and `<im_end>` around it.
"""

from __future__ import annotations

from typing import Any

from polymodal.checkpoints.official_llava import official
from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Repository, Stage, System, Variant


def published(width: int, depth: int, heads: int, ffn: int, **more: Any) -> dict[str, Any]:
    """The config.json of official checkpoints: LLaMA's, and `mm_*`."""
    return {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "hidden_size": width,
            "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": ffn, "vocab_size": 32003,
            "mm_vision_tower": "openai/clip-vit-large-patch14", "mm_hidden_size": 1024, "mm_vision_select_layer": -2,
            "mm_use_im_start_end": True, "rms_norm_eps": 1e-6, **more}  # fmt: skip


LATER = {"vocab_size": 32000, "mm_use_im_start_end": False, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
SYSTEM = System(
    id="llava",
    aliases=("LLaVA", "LLaVA v1", "LLaVA v0"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(official("linear"),),
    variants=(
        Variant(name="llama-2-13b", parameters=13_324_292_096, config=published(5120, 40, 40, 13824, **LATER),
                repository=Repository(name="liuhaotian/llava-llama-2-13b-chat-lightning-preview",
                                      license="Llama 2 community")),
        Variant(name="7b-v1.1", parameters=7_045_818_368, config=published(4096, 32, 32, 11008),
                repository=Repository(name="liuhaotian/LLaVA-Lightning-7B-delta-v1-1", license="LLaMA"),
                difference_to="LLaMA"),
        Variant(name="13b-v1.1", parameters=13_324_322_816, config=published(5120, 40, 40, 13824),
                repository=Repository(name="liuhaotian/LLaVA-13b-delta-v1-1", license="LLaMA"),
                difference_to="LLaMA"),
    ),
    headline="follows instructions about a picture that one linear map turned into words for Vicuna",
    reference="arXiv 2304.08485",
    recipe=(
        Stage(
            name="align",
            data=(DataSource(name="CC-595K", kind="image-text pairs", samples=595_375),),
            objective=LanguageModeling(),
            train=("connectors.image",),
            optimizer=AdamW(lr=2e-3, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=128, epochs=1, max_length=2048),
            start="parts",
        ),
        Stage(
            name="instruct",
            data=(DataSource(name="LLaVA-Instruct-158K", kind="conversations", samples=158_000),),
            objective=LanguageModeling(),
            train=("connectors.image", "backbone"),
            optimizer=AdamW(lr=2e-5, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=128, epochs=3, max_length=2048, precision="bfloat16"),
            start="align",
            note="batch of the scripts, the paper says 32",
        ),
    ),
)  # fmt: skip
