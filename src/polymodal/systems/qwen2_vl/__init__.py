"""Qwen2-VL: pictures and videos at their own resolution, positions on three axes.

Paper: Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution (arXiv 2409.12191).

    picture, video -> patches of 2 x 14 x 14, grid (t, h, w) -> ViT with 2-D rope, frames apart [t*h*w, 1280]
        -> 2 x 2 patches joined, two linears [t*h*w/4, D] -> spliced between `<|vision_start|>` and `<|vision_end|>`
        -> Qwen2 with M-RoPE (time, row, column) -> text                                             (fusion type C)

Traps: the published processor's limits on pixels differ from those of qwen-vl-utils; published configs are flat (the
language half at the top), saved ones nested; the 2B ties its head.  Frames of a video are chosen by time here.
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    System,
    hf,
)
from polymodal.systems.qwen2_vl.checkpoint import parse_config, published, variant
from polymodal.systems.qwen2_vl.recipe import RECIPE

SYSTEM = System(
    id="qwen2-vl",
    aliases=("Qwen2-VL",),
    year=2024,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "video"),
    outputs=("text",),
    formats=(CheckpointFormat(name="transformers Qwen2VLForConditionalGeneration", parse_config=parse_config,
                    matches=hf("qwen2_vl", "Qwen2VLForConditionalGeneration")),),
    variants=(
        variant("2b", 2_208_985_600, "Apache-2.0",
                published(1536, 28, 12, 2, 8960, vocab_size=151936, tie_word_embeddings=True)),
        variant("7b", 8_291_375_616, "Apache-2.0", published(3584, 28, 28, 4, 18944)),
        variant("72b", 73_405_560_320, "Qwen", published(8192, 80, 64, 8, 29568)),
    ),
    headline="reads pictures and videos of any resolution and answers about them",
    reference="arXiv 2409.12191",
    recipe=RECIPE,
)  # fmt: skip
