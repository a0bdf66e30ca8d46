"""CoDi-2: reads words with pictures and sounds among them, and answers with words and with vectors to be drawn.

Paper: CoDi-2: In-Context, Interleaved, and Interactive Any-to-Any Generation (arXiv 2311.18775).
Code: microsoft/i-Code, CoDi-2 (MIT); no weights were released.

    picture -> all tokens of ImageBind [N, 257, 1024], sound -> one vector -> MLP with a norm -> among the words
    -> LLaMA-2 -> words; behind "<p>" the state foretells the next vector [1, 1024] -> Stable unCLIP 2.1-h     (type C)

Traps: every word of a prompt is a call of the tokenizer of its own; see `models/feature_regression_lm.py`.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.codi_2.checkpoint import CONFIG, parse_config
from polymodal.systems.codi_2.recipe import RECIPE

SYSTEM = System(
    id="codi-2",
    aliases=("CoDi-2",),
    year=2023,
    fusion=("C",),
    assembly="FeatureRegressionLM",
    inputs=("text", "image", "audio"),
    outputs=("text", "image"),
    formats=(CheckpointFormat(name="CoDi-2's training code", parse_config=parse_config, matches=hf("codi-2")),),
    variants=(
        Variant(
            name="7b",
            parameters=7_837_748_225,
            summary="ImageBind huge and LLaMA-2 7B, low-rank paths merged",
            config=CONFIG,
        ),
    ),
    headline="reads words, pictures and sounds in any order, and foretells the vector of what is to be drawn",
    reference="arXiv 2311.18775",
    recipe=RECIPE,
)
