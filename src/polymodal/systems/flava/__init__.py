"""FLAVA: one model for pictures, for text and for both together, trained on all three kinds of data at once.

    picture -> 224 x 224 -> ViT-B/16, pre-norm [N, 197, 768] --------------------+-> linear each -> 6 blocks over
    text -> BERT word pieces -> a text encoder of the same pre-norm blocks [B, T, 768] -+   [own CLS; picture; text]
    first tokens after the norms -> image_proj, text_proj -> cosine
    picture at 112 x 112 -> DALL-E codec -> the image tokens that masked patches are taught

Paper: FLAVA (arXiv 2112.04482).  Weights: facebook/flava-full, facebook/flava-image-codebook (BSD-3-Clause).
Traps: the text encoder is pre-norm, unlike BERT; the joint blocks read states before the final norm; the library's
vocabulary of text sizes the word heads and the image config's `vocab_size` the image heads.
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.flava.checkpoint import _HUB, MODEL, PRETRAINING, parse_codec_config, parse_config
from polymodal.systems.flava.recipe import RECIPE

SYSTEM = System(
    id="flava",
    aliases=("FLAVA",),
    year=2021,
    fusion=("fusion-encoder",),
    assembly="MultimodalEncoder",
    inputs=("image", "text"),
    outputs=("image embedding", "text embedding", "joint embedding", "masked tokens", "match"),
    headline="one model good at vision-only, text-only and joint tasks",
    reference="arXiv 2112.04482",
    formats=(
        CheckpointFormat(name="transformers Flava", matches=hf("flava", MODEL, PRETRAINING), parse_config=parse_config),
        CheckpointFormat(
            name="transformers FlavaImageCodebook", matches=hf("flava_image_codebook"), parse_config=parse_codec_config
        ),
    ),
    variants=(
        Variant(
            name="full",
            parameters=357_645_303,
            repository=_HUB,
            config={"model_type": "flava", "architectures": [PRETRAINING]},
        ),
        Variant(
            name="model",
            parameters=241_356_289,
            repository=_HUB,
            config={"model_type": "flava", "architectures": [MODEL]},
        ),
        Variant(
            name="codec",
            parameters=53_786_240,
            config={"model_type": "flava_image_codebook"},
            format=1,
            repository=Repository(name="facebook/flava-image-codebook", license="BSD-3-Clause"),
        ),
    ),
    recipe=RECIPE,
)
