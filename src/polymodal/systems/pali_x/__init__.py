"""PaLI-X: patches of pictures and frames go in front of a prompt into an encoder, a decoder writes the answer.

Paper: PaLI-X (arXiv 2305.18565).  Neither code nor weights were released; names on disk are those of the hub's T5
(UL2 is one) and ViT.

    pictures, each by itself -> ViT-22B, every patch [N, 256 at 224 pixels, 6144] -> one linear [N, 256, 4096]
    8 frames of a video -> the same, one frame behind another [N, 2048, 4096]
    all of them, then the words -> 50 blocks that see both ways -> 50 blocks that write, through cross-attention   (A)

Traps: pictures of a whole talk stand in front of its first word; relative positions count them too; boxes are words.
From the paper: both parts and 50 layers, stages, resolutions, data.  From UL2's paper, as the nearest: widths and
heads (the sum is the published 32B).  From PaLI's, whose prompts these are: the prompts.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.pali_x.checkpoint import parse_config, published
from polymodal.systems.pali_x.recipe import RECIPE

SYSTEM = System(
    id="pali-x",
    aliases=("PaLI-X", "PaLI-X-55B"),
    year=2023,
    fusion=("A",),
    assembly="EncoderDecoderLM",
    inputs=("text", "image", "video"),
    outputs=("text",),
    formats=(CheckpointFormat(name="names of T5 and ViT", parse_config=parse_config, matches=hf("pali-x")),),
    variants=(
        Variant(
            name="55b",
            parameters=54_040_998_912,
            config=published(756),
            summary="the last stage, 2916 patches a picture",
        ),
        Variant(name="55b-224", parameters=54_024_655_872, config=published(224), summary="the first stage"),
    ),
    headline="captions, answers, text and boxes in 100 languages from pictures and frames, by one encoder-decoder",
    reference="paper: PaLI-X, arXiv 2305.18565",
    recipe=RECIPE,
)
