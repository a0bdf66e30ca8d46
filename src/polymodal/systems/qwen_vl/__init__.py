"""Qwen-VL: a picture is 256 tokens between `<img>` and `</img>`; boxes are read and written as text.

Paper: Qwen-VL (arXiv 2308.12966).

    picture -> 448 x 448, aspect not kept -> ViT-bigG/14 [N, 1024, 1664]
            -> cross-attention of 256 queries, norm, linear [N, 256, 4096] -> spliced at `<imgpad>`      (fusion type C)
    Qwen-7B, the first: 8192 tokens, trained on 2048

Traps: published code writes the picture's path in bytes between the marks and reads the picture inside the model; what
stands there never reaches a block, here all of it is `<imgpad>`.  The base model takes prompts as they are.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, ConfigMatch, System
from polymodal.systems.qwen_vl.checkpoint import parse_config, variant
from polymodal.systems.qwen_vl.recipe import RECIPE

SYSTEM = System(
    id="qwen-vl",
    aliases=("Qwen-VL", "Qwen-VL-Chat"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="Qwen QWenLMHeadModel with pictures",
            matches=ConfigMatch(score=lambda config: "visual" in config, model_types=("qwen",)),
            parse_config=parse_config,
        ),
    ),
    variants=(variant("chat", "Qwen-VL-Chat"), variant("base", "Qwen-VL")),
    headline="pictures of 448 pixels as 256 tokens, and boxes that are read and written as text",
    reference="arXiv 2308.12966",
    recipe=RECIPE,
)
