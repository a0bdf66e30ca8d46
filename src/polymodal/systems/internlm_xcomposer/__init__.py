"""InternLM-XComposer (arXiv 2309.15112): talks about pictures and writes articles around them, in Chinese and English.

    pixel_values [N, 3, 224, 224] -> EVA ViT-g -> Q-Former of 64 queries -> linear, between two marks [N, 66, 4096]
    -> InternLM-7B, whose q, v, up and down have low-rank paths

    <s>{meta instruction} <|User|>:features{question}\\n<TOKENS_UNUSED_0> <|Bot|>:{answer}<TOKENS_UNUSED_1>

Traps: InternLM is LLaMA with biases in all four linears of its attention; `lora_cfg` and `internlm_lora` say the same;
the published default searches five beams with a penalty of 1.5.  Writing an article asks a service for pictures between
the model's answers; the service is no part of the model.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.internlm_xcomposer.checkpoint import parse_config
from polymodal.systems.internlm_xcomposer.recipe import RECIPE


def _variant(name: str, parameters: int, vocabulary: int, repository: str) -> Variant:
    paths = {"freeze": False, "learn_param": ["q", "v", "ffn"], "lora_alpha": 256, "lora_dropout": 0.05, "lora_r": 256}
    config = {"model_type": "InternLMXComposer", "architectures": ["InternLMXComposerForCausalLM"], "kqvo_bias": True,
              "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
              "num_query_token": 64, "vocab_size": vocabulary, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
              "intern_converted_llm": True, "internlm_lora": paths, "lora_cfg": paths}  # fmt: skip
    licence = "research free, commercial on application"
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=repository, license=licence))  # fmt: skip


SYSTEM = System(
    id="internlm-xcomposer",
    aliases=("InternLM-XComposer", "InternLM-XComposer-VL"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="hub InternLM-XComposer",
            parse_config=parse_config,
            matches=hf("InternLMXComposer", "InternLMXComposerForCausalLM"),
        ),
    ),
    variants=(
        _variant("7b", 8_797_872_000, 103168, "internlm/internlm-xcomposer-7b"),
        _variant("vl-7b", 8_797_888_384, 103170, "internlm/internlm-xcomposer-vl-7b"),
    ),
    headline="talks about pictures in Chinese and in English through a Q-Former of 64 queries between two marks",
    reference="arXiv 2309.15112",
    recipe=RECIPE,
)
