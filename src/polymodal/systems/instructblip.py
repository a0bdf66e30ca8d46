"""InstructBLIP (arXiv 2305.06500): the instruction goes into the Q-Former too, so the 32 tokens depend on the question.

    pixel_values -> EVA ViT-g -> Q-Former reading [queries][instruction, BERT tokens] -> its queries -> linear
    [<image> x 32] </s> instruction -> Vicuna 7B, 13B;   [<image> x 32] instruction </s> -> Flan-T5 XL, XXL
    video: each frame by itself with the same instruction, tokens joined in time order (InstructBlipVideo)

Traps: two tokenizers; the hub's Q-Former names its first norm `embeddings.layernorm` here and `layernorm` in BLIP-2;
Vicuna's BOS is `</s>` and its weights are v1.1; the Q-Former's text path has a feed-forward of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from polymodal.checkpoints import lavis, qformer_chat, qformer_lm
from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFormat,
    Cosine,
    DataSource,
    LanguageModeling,
    ModelSpec,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.blip_2.checkpoint import FLAN_T5_XL, FLAN_T5_XXL


def parse_config(config: Mapping[str, Any], *, video: bool = False) -> ModelSpec:
    """The model at any size; `video`: it takes frames."""
    found = qformer_lm.qformer_lm(config, instructed=True, video=video)
    assemble = None if video else qformer_chat.assemble(found)
    return ModelSpec(build=found.build, keys=qformer_lm.hf_keys(found), parts=found.drawing(), assemble=assemble)


def _vicuna(width: int, depth: int, heads: int, ffn_width: int) -> dict[str, Any]:
    return {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "num_key_value_heads": heads, "intermediate_size": ffn_width, "vocab_size": 32001, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048, "pad_token_id": 32000, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


def _variant(name: str, parameters: int, text: dict[str, Any], license: str) -> Variant:
    token = 32000 if text["model_type"] == "llama" else 32100
    config = {"model_type": "instructblip", "architectures": ["InstructBlipForConditionalGeneration"],
              "num_query_tokens": 32, "image_token_index": token, "qformer_config": {"vocab_size": 30523},
              "text_config": text}  # fmt: skip
    repository = Repository(name=f"Salesforce/instructblip-{name}", license=license)
    return Variant(name=name, parameters=parameters, config=config, repository=repository)


SYSTEM = System(
    id="instructblip",
    aliases=("InstructBLIP",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("image", "text", "video"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="transformers InstructBlipForConditionalGeneration",
            parse_config=parse_config,
            matches=hf("instructblip", "InstructBlipForConditionalGeneration"),
        ),
        CheckpointFormat(
            name="transformers InstructBlipVideoForConditionalGeneration",
            parse_config=partial(parse_config, video=True),
            matches=hf("instructblipvideo", "InstructBlipVideoForConditionalGeneration"),
        ),
        CheckpointFormat(
            name="LAVIS Blip2VicunaInstruct and Blip2T5Instruct",
            matches=hf("lavis-instructblip"),
            parse_config=partial(lavis.parse_second_stage, instructed=True),
            entry=("model", ""),
            gather=lavis.gather,
        ),
    ),
    variants=(
        _variant("vicuna-7b", 7_913_210_624, _vicuna(4096, 32, 32, 11008), "LLaMA research licence"),
        _variant("vicuna-13b", 14_191_448_832, _vicuna(5120, 40, 40, 13824), "LLaMA research licence"),
        _variant("flan-t5-xl", 4_022_969_088, FLAN_T5_XL, "MIT and Apache-2.0"),
        _variant("flan-t5-xxl", 12_310_119_168, FLAN_T5_XXL, "MIT and Apache-2.0"),
    ),
    headline="the visual tokens depend on the instruction: another question about one picture gives other features",
    reference="arXiv 2305.06500",
    recipe=(
        # Recalled from the paper, not read again; 13 of 26 data sets train, sampled by the square root of their sizes.
        Stage(
            name="instruct",
            data=(DataSource(name="13 data sets in 10 to 15 templates each", kind="conversations"),),
            objective=LanguageModeling(),
            train=("connectors", "encoders.image.final_norm"),
            optimizer=AdamW(lr=1e-5, weight_decay=0.05),
            schedule=Cosine(warmup_steps=1000, warmup_start=1e-3),
            budget=Budget(batch=128, steps=60_000),
            start="parts",
            note="from BLIP-2 with the same language model; batch of 7b, 192 for flan-t5-xl, 64 for the largest",
        ),
    ),
)
