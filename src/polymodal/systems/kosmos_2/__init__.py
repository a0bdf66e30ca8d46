"""KOSMOS-2: captions and answers whose phrases carry boxes, written as location tokens.

Paper: Kosmos-2: Grounding Multimodal Large Language Models to the World (arXiv 2306.14824).

    picture -> 224 x 224 -> CLIP ViT-L/14, last norm over ALL tokens -> unit length [N, 257, 1024]
            -> 64 learned queries read it once [N, 64, 2048] -> spliced between `<image>` and `</image>`
            -> Magneto decoder -> "<phrase>a dog</phrase><object><patch_index_0044><patch_index_0863></object>"  (C)

Traps: image features are multiplied by sqrt(width) together with the words; a mask marks where they go, not an id;
positions are counted by the padding id; in cached steps all that is cached counts, padding in front too, as published,
so that a row padded on the left goes on a little differently than alone.
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.kosmos_2.checkpoint import parse_config
from polymodal.systems.kosmos_2.recipe import RECIPE

SYSTEM = System(
    id="kosmos-2",
    aliases=("KOSMOS-2", "Kosmos2"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(CheckpointFormat(name="transformers Kosmos2ForConditionalGeneration", parse_config=parse_config,
                    matches=hf("kosmos-2", "Kosmos2ForConditionalGeneration")),),
    variants=(
        Variant(name="patch14-224", parameters=1_664_485_376,
                config={"model_type": "kosmos-2", "architectures": ["Kosmos2ForConditionalGeneration"]},
                repository=Repository(name="microsoft/kosmos-2-patch14-224", license="MIT")),
    ),
    headline="names what it sees with boxes, and answers about boxes it is shown, as location tokens in the text",
    reference="arXiv 2306.14824",
    recipe=RECIPE,
)  # fmt: skip
