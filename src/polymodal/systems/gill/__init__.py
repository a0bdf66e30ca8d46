"""GILL: a frozen OPT that reads pictures between words and answers with words, pictures it draws and pictures it finds.

Paper: Generating Images with Multimodal Language Models (arXiv 2305.17216).  Code: kohjingyu/gill (Apache-2.0).

    picture -> CLIP ViT-L/14, pooled -> linear [N, 4, D] -> between the words -> OPT-6.7B -> text   (type C)
    [IMG0]..[IMG7] in the answer -> their states + embeddings -> mapper [k, 77, 768] -> Stable Diffusion 1.5
                                 -> state of [IMG0] -> linear, a vector to find pictures by; draw or find?

Traps: the begin token stands in front of the first words, behind pictures that come before them; [IMG0] is always
followed by the other seven; OPT's table has seven rows of no token, of which the new ones replace six.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.gill.checkpoint import OPT_6_7B, VIT_L_14, gather, parse_config
from polymodal.systems.gill.recipe import RECIPE

SYSTEM = System(
    id="gill",
    aliases=("GILL",),
    year=2023,
    fusion=("C",),
    assembly="SignalTokenLM",
    inputs=("text", "image"),
    outputs=("text", "image"),
    formats=(
        CheckpointFormat(
            name="official GILL",
            parse_config=parse_config,
            matches=hf("gill"),
            entry=("state_dict", ""),
            gather=gather,
        ),
    ),
    variants=(
        Variant(
            name="opt-6.7b",
            parameters=7_011_733_763,
            config={"model_type": "gill", "text_config": OPT_6_7B, "vision_config": VIT_L_14},
            summary="beside it facebook/opt-6.7b, openai/clip-vit-large-patch14 and stable-diffusion-v1-5",
            repository=Repository(name="kohjingyu/gill", kind="official", license="Apache-2.0; OPT under its own"),
        ),
    ),
    headline="answers with words, and with pictures that it draws with Stable Diffusion or finds among yours",
    reference="arXiv 2305.17216",
    recipe=RECIPE,
)
