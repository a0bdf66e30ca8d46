"""NExT-GPT: sees, hears and reads, and answers with text, pictures, videos and sounds.

Paper: NExT-GPT: Any-to-Any Multimodal LLM (arXiv 2309.05519); the published 7b_tiva_v0 ("legacy" code).

    picture, video, sound -> ImageBind -> linear [N, 1, D] -> spliced between <Img> and </Img> -> Vicuna -> text
    [IMG0]..[IMG3] in the answer -> their states + embeddings -> output projector [1, 77, 768] -> Stable Diffusion
    [VID0]..[VID23] -> [1, 77, 1024] -> zeroscope;   [AUD0]..[AUD7] -> [1, 1, 512] -> AudioLDM          (type C)

Traps: sound enters without ImageBind's scale; the states are those AT the signal tokens (the official index of one
less makes up for the begin token of old libraries); each text piece of the demo gets a begin token of its own.
"""

from __future__ import annotations

from polymodal.checkpoints import imagebind_llama
from polymodal.encoders import imagebind_keys
from polymodal.systems import (
    CheckpointFormat,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.next_gpt.checkpoint import LLAMA_7B, infer, parse_config
from polymodal.systems.next_gpt.recipe import RECIPE

SYSTEM = System(
    id="next-gpt",
    aliases=("NExT-GPT", "NextGPT"),
    year=2023,
    fusion=("C",),
    assembly="SignalTokenLM",
    inputs=("text", "image", "video", "audio"),
    outputs=("text", "image", "video", "audio"),
    formats=(
        CheckpointFormat(
            name="official NExT-GPT (legacy)",
            parse_config=parse_config,
            infer=infer,
            gather=imagebind_llama.gather,
            matches=hf("next-gpt"),
        ),
    ),
    variants=(
        Variant(
            name="7b",
            parameters=8_073_098_241,
            summary="delta on ImageBind huge and Vicuna v0",
            config={
                "model_type": "next-gpt",
                "imagebind": imagebind_keys.HUGE,
                "llama": LLAMA_7B,
                "lora_r": 32,
                "lora_alpha": 32,
            },
            repository=Repository(name="ChocoWu/nextgpt_7b_tiva_v0", license="CC-BY-NC-4.0"),
        ),
    ),
    headline="answers a question with words and with pictures, videos or sounds that its signal tokens ask for",
    reference="arXiv 2309.05519",
    recipe=RECIPE,
)
