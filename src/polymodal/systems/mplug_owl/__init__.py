"""mPLUG-Owl: 64 queries read a picture, their features and an end vector stand in a conversation of LLaMA or BLOOMZ.

Paper: mPLUG-Owl: Modularization Empowers Large Language Models with Multimodality (arXiv 2304.14178).

    picture [N, 3, 224, 224], stretched to a square -> ViT-L/14, every token normed [N, 257, 1024]
        -> visual abstractor, 64 queries in 6 layers, linear [N, 64, D], and a learned end vector [N, 65, D]
    `Human: ` 65 placeholders, `Human: ` question, `AI: ` answer -> LLaMA-7B or BLOOMZ-7B -> text      (fusion type C)

Traps: the class token is kept; q, k and v of the ViT are one weight, interleaved by head; the abstractor's residual
starts from normed queries; BLOOM's norm behind the embedding acts on words only; every piece of a conversation is
tokenised by itself.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.mplug_owl.checkpoint import parse_config, published
from polymodal.systems.mplug_owl.recipe import RECIPE

LLAMA = "MIT; LLaMA, not for commercial use"

SYSTEM = System(
    id="mplug-owl",
    aliases=("mPLUG-Owl", "mPLUG-Owl 7B", "mPLUG-Owl v1"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(CheckpointFormat(name="X-PLUG MplugOwlForConditionalGeneration", parse_config=parse_config,
                    matches=hf("mplug-owl", "MplugOwlForConditionalGeneration")),),
    variants=(
        Variant(name="llama-7b", parameters=7_123_068_928, config=published("llama"),
                repository=Repository(name="MAGAer13/mplug-owl-llama-7b", license=LLAMA)),
        Variant(name="llama-7b-pt", parameters=7_123_068_928, config=published("llama"),
                summary="after the first stage", repository=Repository(name="MAGAer13/mplug-owl-llama-7b-pt",
                                                                       license=LLAMA)),
        Variant(name="bloomz-7b-multilingual", parameters=7_453_669_376, config=published("bloom"),
                repository=Repository(name="MAGAer13/mplug-owl-bloomz-7b-multilingual",
                                      license="MIT; BLOOM RAIL 1.0")),
    ),
    headline="talks about several pictures, its encoder trained while the language model was frozen",
    reference="arXiv 2304.14178",
    recipe=RECIPE,
)  # fmt: skip
