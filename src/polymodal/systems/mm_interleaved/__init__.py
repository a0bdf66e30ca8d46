"""MM-Interleaved: texts and pictures in turn, read and written; the text sees the details of all pictures before it.

Paper: MM-Interleaved (arXiv 2401.10208).  Code: OpenGVLab/MM-Interleaved (Apache-2.0), read at ac539d0.

    picture 224 x 224 -> CLIP ViT-L/14 with ViT-Adapter -> Q-Former -> 64 tokens behind <|beginofimage|>
                                                         -> maps 32, 16, 8 -> synchronisers in every 4th block
    -> Vicuna-13B -> text; at <|beginofimage|> the states so far, newest first -> Q-Former -> 77 x 1024
    -> Stable Diffusion 2.1, in place of its text encoder's output

Traps: a token looks at ALL pictures before it, not the last alone; one that sees none still gets a bias; the mark's
embedding has a learned vector added in prompts; attention of the Q-Former norms queries and keys.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.mm_interleaved.checkpoint import parse_config, published
from polymodal.systems.mm_interleaved.recipe import RECIPE

SYSTEM = System(
    id="mm-interleaved",
    aliases=("MM-Interleaved", "MM Interleaved"),
    year=2024,
    fusion=("B", "C"),
    assembly="SynchronizedLM",
    inputs=("text", "image"),
    outputs=("text", "image"),
    formats=(
        CheckpointFormat(
            name="official MM-Interleaved",
            parse_config=parse_config,
            matches=hf("mm_interleaved"),
        ),
    ),
    variants=(
        Variant(
            name="13b",
            parameters=14_912_865_561,
            config=published(),
            repository=Repository(
                name="OpenGVLab/MM-Interleaved", license="Apache-2.0; weights under the LLaMA licence"
            ),
        ),
    ),
    headline="texts with pictures in turn, in and out: what is written looks at the details of every picture before it",
    reference="arXiv 2401.10208",
    recipe=RECIPE,
)
