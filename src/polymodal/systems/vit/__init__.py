"""ViT: a picture as 16 x 16 words for a plain transformer encoder.

Paper: An Image is Worth 16x16 Words (arXiv 2010.11929); sizes Ti and S from AugReg (arXiv 2106.10270).

    picture -> squashed to 224 x 224, -1..1 -> patches + class token -> blocks -> norm -> class token -> linear

Traps: files of the hub hold old names; norms have eps 1e-12 there and 1e-6 in the official .npz files, whose GELU is
the tanh form; only the ImageNet-21k originals have a dense layer before the classes (the hub's pooler); a folder of
the bare model may lack that pooler, which is then left as it starts, because features do not pass it.
"""

from __future__ import annotations

from polymodal.encoders import google_vit
from polymodal.systems import (
    CheckpointFormat,
    System,
    hf,
)
from polymodal.systems.vit.checkpoint import (
    parse_bare_config,
    parse_classification_config,
    parse_jax_model,
    parse_pixels_config,
    published,
)
from polymodal.systems.vit.recipe import RECIPE

SYSTEM = System(
    id="vit",
    aliases=("ViT", "Vision Transformer", "Vision Transformer (ViT)"),
    year=2020,
    fusion=(),
    assembly="EncoderClassifier",
    inputs=("image",),
    outputs=("classes", "features"),
    formats=(
        CheckpointFormat(
            name="transformers ViTForImageClassification",
            parse_config=parse_classification_config,
            matches=hf("vit", "ViTForImageClassification"),
        ),
        CheckpointFormat(name="transformers ViTModel", parse_config=parse_bare_config, matches=hf("vit", "ViTModel")),
        CheckpointFormat(
            name="transformers ViTForMaskedImageModeling",
            parse_config=parse_pixels_config,
            matches=hf("vit", "ViTForMaskedImageModeling"),
        ),
        CheckpointFormat(
            name="official ViT .npz",
            parse_config=parse_jax_model,
            matches=hf("vit_jax"),
            infer=google_vit.infer,
        ),
    ),
    variants=(
        published("b-16", 86_567_656, 768, 12, 12, 16),
        published("b-16-384", 86_859_496, 768, 12, 12, 16, 384),
        published("b-32-384", 88_297_192, 768, 12, 12, 32, 384),
        published("l-16", 304_326_632, 1024, 24, 16, 16),
        published("l-16-384", 304_715_752, 1024, 24, 16, 16, 384),
        published("l-32-384", 306_632_680, 1024, 24, 16, 32, 384),
        published("b-16-in21k", 86_389_248, 768, 12, 12, 16, classes=0),
        published("l-16-in21k", 304_351_232, 1024, 24, 16, 16, classes=0),
        published("h-14-in21k", 632_404_480, 1280, 32, 16, 14, classes=0),
    ),
    headline="classifies pictures with a plain transformer over patches; the encoder most later systems reuse",
    reference="arXiv 2010.11929",
    recipe=RECIPE,
)
