"""VisCPM: talks about pictures, and paints them, in Chinese and English, on CPM-Bee (OpenBMB, 2023).

Papers: Large Multilingual Models Pivot Zero-Shot Multimodal Learning across Languages (arXiv 2308.12038); how it sees
is Muffin's (arXiv 2310.00653).

    Chat    picture -> BEiT-3, in which 64 queries stand as words -> 2 linears [N, 64, 4096] -> a leaf of the tree
            tree of picture, rounds before and question -> CPM-Bee -> answer                                     (C)
    Paint   wish -> CPM-Bee's last states [B, T, 4096] -> linear, norm [B, T, 1024] -> Stable Diffusion's U-Net, codec

Two models in files of their own; they share nothing but CPM-Bee's sizes and its trees.
Traps: CPM-Bee divides what its linears give, and reads trees (`backbones/cpm_bee.py`); of two wishes of unequal length
the shorter one is padded, and the U-Net looks at the padding.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.viscpm import paint
from polymodal.systems.viscpm.checkpoint import BEE_10B, CHAT, infer, parse_config
from polymodal.systems.viscpm.recipe import RECIPE

SYSTEM = System(
    id="viscpm",
    aliases=("VisCPM", "VisCPM-Chat", "VisCPM-Paint"),
    year=2023,
    fusion=("C",),
    assembly="PrefixLM",
    inputs=("image", "text"),
    outputs=("text", "image"),
    formats=(
        CheckpointFormat(name="official VisCPM-Chat", parse_config=parse_config, matches=hf(CHAT), infer=infer),
        CheckpointFormat(
            name="official VisCPM-Paint", parse_config=paint.parse_config, matches=hf(paint.PAINT), infer=paint.infer
        ),
    ),
    variants=(
        Variant(
            name="chat",
            parameters=10_318_225_408,
            config={"model_type": CHAT, **BEE_10B, "query_num": 64, "vision": {}},
            repository=Repository(name="openbmb/VisCPM-Chat", license="General Model License, non-commercial"),
        ),
        Variant(
            name="paint",
            parameters=10_486_187_972,
            config={"model_type": paint.PAINT, **BEE_10B, "unet": {}},
            format=1,
            summary="beside it the codec of stable-diffusion-2-1-base, its folder vae",
            repository=Repository(name="openbmb/VisCPM-Paint", license="General Model License, non-commercial"),
        ),
    ),
    headline="talks about a picture, and paints one, in Chinese and English, on a language model that speaks both",
    reference="arXiv 2308.12038",
    recipe=RECIPE,
)
