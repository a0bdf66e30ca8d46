"""Otter: OpenFlamingo tuned to follow instructions, with answers to other pictures or to a clip as examples.

Papers: Otter (arXiv 2305.03726); MIMIC-IT (arXiv 2306.05425).

    vision_x [B, N, 1, 3, 224, 224] -> CLIP ViT-L/14, patches of the last layer, not normed [items, 256, 1024]
        -> Perceiver resampler [items, 64, 1024] -> keys and values of the gated blocks              (fusion type A)
    Otter-Video: video_values [N, 1, F, 3, 224, 224], a position for each frame -> 64 latents a clip, one `<image>`
    each token sees the last picture or clip at or before it
    -> MPT-7B or LLaMA-7B, a gated block in front of the last layer of each group of four -> text

Traps: names are those of `transformers` for CLIP, and `feed_forward` where OpenFlamingo says `ff`; a token `<answer>`
stands in front of each answer; `use_media_placement_augmentation` of the configs is never read.  The official
generation of the LLaMA models keeps a cache and shows new tokens no picture; here they see what they saw in training,
as the MPT models' do, whose config turns the cache off.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.otter.checkpoint import parse_config, published
from polymodal.systems.otter.recipe import RECIPE

MPT, LLAMA = "code MIT; language model Apache-2.0", "code MIT; weights of LLaMA, not for commercial use"

SYSTEM = System(
    id="otter",
    aliases=("Otter", "Otter-Image", "Otter-Video", "OTTER-Image-MPT7B", "OTTER-Video-LLaMA7B-DenseCaption"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image", "video"),
    outputs=("text",),
    formats=(CheckpointFormat(name="Otter of transformers", parse_config=parse_config, matches=hf("otter")),),
    variants=(
        Variant(name="image-mpt7b", parameters=8_131_301_392, config=published("mpt"),
                repository=Repository(name="luodian/OTTER-Image-MPT7B", license=MPT)),
        Variant(name="image-llama7b-in-context", parameters=8_220_463_120, config=published("llama"),
                repository=Repository(name="luodian/OTTER-Image-LLaMA7B-LA-InContext", license=LLAMA)),
        Variant(name="video-llama7b-densecaption", parameters=8_220_594_192, config=published("llama", frames=128),
                repository=Repository(name="luodian/OTTER-Video-LLaMA7B-DenseCaption", license=LLAMA)),
    ),
    headline="follows an instruction about a picture or a clip after examples of other pictures, in several turns",
    reference="arXiv 2305.03726",
    recipe=RECIPE,
)  # fmt: skip
