"""InternVL-Chat from 1.1 on: a large picture as tiles of 448 pixels, 256 tokens each; InternVL-14B of 1.0.

Papers: InternVL (arXiv 2312.14238), InternVL 1.5 (arXiv 2404.16821).

    picture -> 1 to 12 tiles, and the whole once more behind them -> InternViT [tiles, 1024, 3200]
            -> four neighbours joined, norm, two linears [tiles, 256, 6144] -> at `<IMG_CONTEXT>`        (fusion type C)
    InternLM2, or a LLaMA or Qwen2 of the config's

Traps: the prompt has no line end between turns; the first releases swap rows and columns of the joined grid
(`ps_version`).  InternVL-14B of 1.0 compares: InternViT-6B, alone (C) or through the queries of a LLaMA that reads
pictures by cross-attention (QLLaMA, G), against texts (`contrastive.py`).
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, hf
from polymodal.systems.internvl import contrastive
from polymodal.systems.internvl.checkpoint import BIG_VIT, LANGUAGE_2_8B, SMALL_VIT, internlm2, parse_config, variant
from polymodal.systems.internvl.recipe import RECIPE

SYSTEM = System(
    id="internvl",
    aliases=("InternVL-Chat-V1-5", "InternVL2", "InternVL"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text", "embedding"),
    formats=(
        CheckpointFormat(
            name="OpenGVLab InternVLChatModel",
            matches=hf("internvl_chat", "InternVLChatModel"),
            parse_config=parse_config,
        ),
        CheckpointFormat(name="OpenGVLab InternVLModel (14B)", matches=contrastive.MATCHES,
                         parse_config=contrastive.parse_config),
    ),
    variants=(
        variant("chat-v1.5", "InternVL-Chat-V1-5", 25_514_186_112, BIG_VIT,
                internlm2(6144, 48, 48, 8, 16384)),
        variant("2-8b", "InternVL2-8B", 8_075_365_376, SMALL_VIT, LANGUAGE_2_8B),
        contrastive.variant("14b-c", "InternVL_C", 13_834_975_747),
        contrastive.variant("14b-g", "InternVL_G", 13_834_975_747),
    ),
    headline="pictures of any shape as up to 12 tiles of 448 pixels and the whole",
    reference="arXiv 2404.16821",
    recipe=RECIPE,
)  # fmt: skip
