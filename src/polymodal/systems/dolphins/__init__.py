"""Dolphins: OpenFlamingo with low-rank paths that talks about driving clips, with examples of others before them.

Paper: Dolphins: Multimodal Language Model for Driving (arXiv 2312.00438).

    video_values [N, 1, 16, 3, 336, 336] -> CLIP ViT-L/14, patches of the last layer, not normed [N, 16 * 576, 1024]
        -> Perceiver resampler, no position of a frame [N, 64, 1024] -> the gated blocks             (fusion type A)
    each token sees the last clip at or before it
    -> MPT-7B, a gated block in front of the last layer of each group of four, low-rank paths beside its attention

Traps: the token `<answer>` stands in front of the last answer alone, not of those in the examples; the demonstration
leaves out the space in front of it; the copies of Otter in the official repository are not what was released.
"""

from __future__ import annotations

from polymodal.checkpoints import open_flamingo_lora
from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.dolphins.checkpoint import parse_config, published
from polymodal.systems.dolphins.recipe import RECIPE

SYSTEM = System(
    id="dolphins",
    aliases=("Dolphins", "Dolphins (driving)"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "video"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="official Dolphins", parse_config=parse_config, matches=hf("dolphins"),
               gather=lambda files: open_flamingo_lora.gather(files.folder), entry=open_flamingo_lora.ENTRY),
    ),
    variants=(
        Variant(name="9b", parameters=8_182_128_656, config=published(),
                repository=Repository(name="gray311/Dolphins", license="code MIT; weights without a licence")),
    ),
    headline="answers about a driving clip, in several turns and after examples of other clips",
    reference="arXiv 2312.00438",
    recipe=RECIPE,
)  # fmt: skip
