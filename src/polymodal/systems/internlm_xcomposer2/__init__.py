"""InternLM-XComposer2: low-rank weights in every linear of the language model, for the tokens of pictures alone.

Paper: InternLM-XComposer2 (arXiv 2401.16420).

    picture -> 490 x 490, aspect not kept -> CLIP ViT-L/14 [N, 1225, 1024] -> linear, GELU, linear [N, 1225, 4096]
            -> where `<ImageHere>` stands in the text                                                    (fusion type C)
    InternLM2: each linear is W x, and W x + B A x for a picture's tokens (Partial LoRA, rank 256)       (fusion type B)

Traps: query, key and value share one A, since published files fuse them; `<ImageHere>` is no token, the text around it
is tokenised in pieces.  The 4KHD and 2.5 models of the same class cut pictures into tiles and are others.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, ConfigMatch, System
from polymodal.systems.internlm_xcomposer2.checkpoint import CLASS, parse_config, variant
from polymodal.systems.internlm_xcomposer2.recipe import RECIPE

SYSTEM = System(
    id="internlm-xcomposer2",
    aliases=("InternLM-XComposer2", "InternLM-XComposer2-VL"),
    year=2024,
    fusion=("B", "C"),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name=f"InternLM {CLASS}",
            matches=ConfigMatch(score=lambda config: CLASS in (config.get("architectures") or ()),
                                architectures=(CLASS,)),
            parse_config=parse_config,
        ),
    ),
    variants=(
        variant("vl-7b", "internlm-xcomposer2-vl-7b", 490),
        variant("7b", "internlm-xcomposer2-7b", 224),
    ),
    headline="Partial LoRA: every linear of the language model has a low-rank path for the tokens of pictures alone",
    reference="arXiv 2401.16420",
    recipe=RECIPE,
)  # fmt: skip
