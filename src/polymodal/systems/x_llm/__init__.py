"""X-LLM: pictures, videos and speech as foreign languages in front of a frozen ChatGLM-6B.

Paper: X-LLM: Bootstrapping Advanced Large Language Models by Treating Multi-Modalities as Foreign Languages
(arXiv 2305.04160).

    picture -> EVA ViT-g -> BLIP-2's Q-Former, 32 queries -> linear [32, 4096]                        (fusion type C)
    video   -> 10 frames, one a second -> the same, with queries and a linear of their own [frames * 32, 4096]
    speech  -> one feature of 512 for each acoustic token (CIF) -> linear, BERT, linear, ReLU [T, 4096]
    <Image>..</Image><Speech>..</Speech>question[gMASK]<sop> -> ChatGLM-6B, which sees its prompt both ways

Traps: the encoder that makes features of speech was never published; they are given as numbers, as the published code
reads them from files.  One picture or video and one utterance, in front of everything.
"""

from functools import partial

from polymodal.checkpoints import lavis
from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.x_llm.checkpoint import parse_config
from polymodal.systems.x_llm.recipe import RECIPE

TEXT = {"model_type": "chatglm", "vocab_size": 130528, "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32,
        "inner_hidden_size": 16384, "layernorm_epsilon": 1e-5, "max_sequence_length": 2048}  # fmt: skip

SYSTEM = System(
    id="x-llm",
    aliases=("X-LLM", "XLLM"),
    year=2023,
    fusion=("C",),
    assembly="PrefixLM",
    inputs=("text", "image", "video", "features"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official X-LLM",
            parse_config=parse_config,
            matches=hf("x-llm"),
            entry=("model", ""),
            gather=partial(lavis.gather, language="opt_model"),
        ),
    ),
    variants=(
        Variant(
            name="chatglm-6b",
            parameters=7_911_124_352,
            config={"model_type": "x-llm", "text_config": TEXT},
            summary="its own weights were not published",
        ),
    ),
    headline="writes down speech and talks about pictures and videos through interfaces to a frozen ChatGLM-6B",
    reference="arXiv 2305.04160",
    recipe=RECIPE,
)
