"""LLaVA-1.5: a picture as 576 tokens of a chat, through two linear layers.

Paper: Improved Baselines with Visual Instruction Tuning (arXiv 2310.03744).

    picture -> 336 x 336 -> CLIP ViT-L/14, input of its last block, no class token [N, 576, 1024]
            -> linear, GELU, linear [N, 576, D] -> spliced at `<image>` -> Vicuna v1.5 -> text          (fusion type C)

Traps: the official code pads to a square with the mean colour, the library's processor crops the centre unless its
config says do_pad; published files call the towers `vision_tower.vision_model.*`, files saved by transformers 5
`vision_tower.*`; a newline stands between `<image>` and the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones import hf_text
from polymodal.checkpoints.llava_format import llava_format
from polymodal.checkpoints.official_llava import official
from polymodal.connectors import hf_mlp
from polymodal.data.chat_formats import LLAVA_SYSTEM, vicuna
from polymodal.data.hf_image import CLIP, squared
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.encoders import hf_vision
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.llava_1_5.recipe import RECIPE

CLIP_L_336 = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
              "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A LlavaConfig dict -> the model; raises ConfigError for options that are not supported."""
    vision = hf_vision.parse_config(config.get("vision_config") or CLIP_L_336, config.get("vision_feature_layer", -2),
                                 config.get("vision_feature_select_strategy", "default"))  # fmt: skip
    text, text_keys = hf_text.decoder_of(config.get("text_config") or {})
    if config.get("tie_word_embeddings") and not text.tied:
        text, text_keys = hf_text.decoder_of({**(config.get("text_config") or {}), "tie_word_embeddings": True})
    tower, width, connector = vision.config, text.width, hf_mlp.parse_config(config)
    placeholder = config.get("image_token_index", config.get("image_token_id", 32000))

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.out_width, width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], {"image": placeholder})

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        side = tower.image_size
        size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        transform = squared(files.preprocessor, {**CLIP, **size})
        tokenizer = files.tokenizer()
        template, after = llava_format(files, tokenizer, vicuna(LLAVA_SYSTEM))
        image = Modality(name="image", placeholder="<image>", transform=transform, after=after,
                         tokens=SameCount(tower.tokens))  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template, modalities=(image,), max_length=text.max_length)
        return LoadedModel(model=module, processor=processor)

    rest = hf_mlp.HF_KEYS.prefixed("multi_modal_projector.", "connectors.image.")
    rest += text_keys.prefixed("language_model.", "backbone.")
    tables = tuple(each + rest for each in vision.prefixed("vision_tower."))
    keys = hf_mlp.with_in_memory_names(tables)
    return ModelSpec(build=build, keys=keys, in_memory=keys[-1], parts=drawing(tower, width), assemble=assemble)


def drawing(tower: hf_vision.ViTConfig, width: int) -> tuple[Part, ...]:
    side, count = tower.image_size, tower.tokens
    return (
        Part(slot="encoder", modality="image", name="ViT (CLIP)", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=f"[N, {count}, {tower.out_width}]", tokens=count),
        Part(slot="connector", modality="image", name="linear, GELU, linear", prefix="connectors.image",
             input=f"[N, {count}, {tower.out_width}]", output=f"[N, {count}, {width}]", tokens=count),
        Part(slot="backbone", name="language model", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip


def published(width: int, depth: int, heads: int, ffn_width: int) -> dict[str, Any]:
    """The config.json of llava-hf's checkpoints."""
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "num_key_value_heads": heads, "intermediate_size": ffn_width, "vocab_size": 32064, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096}  # fmt: skip
    return {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_config": CLIP_L_336,
            "text_config": text, "image_token_index": 32000, "vision_feature_layer": -2}  # fmt: skip


SYSTEM = System(
    id="llava-1.5",
    aliases=("LLaVA-1.5", "LLaVA v1.5"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers LlavaForConditionalGeneration", parse_config=parse_config,
               matches=hf("llava", "LlavaForConditionalGeneration")),
        official("mlp"),
    ),
    variants=(
        Variant(name="7b", parameters=7_063_427_072, config=published(4096, 32, 32, 11008),
                repository=Repository(name="llava-hf/llava-1.5-7b-hf", license="Llama 2 community")),
        Variant(name="13b", parameters=13_351_494_656, config=published(5120, 40, 40, 13824),
                repository=Repository(name="llava-hf/llava-1.5-13b-hf", license="Llama 2 community")),
    ),
    headline="answers questions about a picture with a two-layer connector between CLIP and Vicuna",
    reference="arXiv 2310.03744",
    recipe=RECIPE,
)  # fmt: skip
