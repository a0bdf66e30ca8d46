"""KOSMOS-1: a decoder trained from nothing on text with pictures anywhere in it.

Paper: Language Is Not All You Need (arXiv 2302.14045).  Neither code nor weights were released; names on disk are those
of KOSMOS-2, whose paper says that it has the same architecture.

    picture -> 224 x 224 -> CLIP ViT-L/14, last norm over ALL tokens -> unit length [N, 257, 1024]
            -> 64 learned queries read it once [N, 64, 2048] -> between `<image>` and `</image>`, wherever it stands
            -> Magneto decoder with xPos -> text                                                             (C)

Traps: image features are multiplied by sqrt(width) together with the words; xPos turns neighbouring dims, queries
shrink and keys grow with their place; KOSMOS-2's released weights have sines in place of xPos.
From the paper: sizes, xPos, sub-LN, 64 features a picture, prompts, data.  From KOSMOS-2's code: how the features are
normed and resampled (the paper names Flamingo's resampler and no sizes of it), the scale, the tied head.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.kosmos_1.checkpoint import parse_config
from polymodal.systems.kosmos_1.recipe import RECIPE

SYSTEM = System(
    id="kosmos-1",
    aliases=("KOSMOS-1", "Kosmos1"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(CheckpointFormat(name="KOSMOS-2's names, xPos", parse_config=parse_config, matches=hf("kosmos-1")),),
    variants=(
        Variant(name="1.6b", parameters=1_662_375_936,
                config={"model_type": "kosmos-1", "text_config": {"vocab_size": 64_007, "xpos_scale_base": 512}}),
    ),
    headline="text with pictures anywhere in it, read by a decoder that was trained on such pages from nothing",
    reference="paper: Language Is Not All You Need, arXiv 2302.14045",
    recipe=RECIPE,
)  # fmt: skip
