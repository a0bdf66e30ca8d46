"""mPLUG-Owl2: every layer of LLaMA-2 has norms, keys and values of its own for pictures.

Paper: mPLUG-Owl2: Revolutionizing Multi-modal Large Language Model with Modality Collaboration (arXiv 2311.04257).

    picture -> stretched to a square, 448 x 448 -> ViT-L/14 with class token [N, 1025, 1024]
            -> visual abstractor, 64 queries and an end marker [N, 65, D] -> spliced at `<|image|>`  (fusion type C)
    every block: two norms and k, v by kind of token; q, o and MLP are shared                        (fusion type B)

Traps: the end marker counts as visual; the second norm is by kind though the MLP is not; the conversation's system
sentence is never written; the official files mark a picture by the id -200, which no vocabulary has.
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.mplug_owl2.checkpoint import parse_config
from polymodal.systems.mplug_owl2.recipe import RECIPE

SYSTEM = System(
    id="mplug-owl2",
    aliases=("mPLUG-Owl2", "mPLUG-Owl2 8.2B"),
    year=2023,
    fusion=("B", "C"),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(CheckpointFormat(name="X-PLUG MPLUGOwl2LlamaForCausalLM", parse_config=parse_config,
                    matches=hf("mplug_owl2", "MPLUGOwl2LlamaForCausalLM")),),
    variants=(
        Variant(name="llama2-7b", parameters=8_197_859_328,
                config={"model_type": "mplug_owl2", "architectures": ["MPLUGOwl2LlamaForCausalLM"],
                        "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
                repository=Repository(name="MAGAer13/mplug-owl2-llama2-7b", license="MIT, Llama 2 community")),
    ),
    headline="norms, keys and values of their own for pictures in every layer, everything else shared",
    reference="arXiv 2311.04257",
    recipe=RECIPE,
)  # fmt: skip
