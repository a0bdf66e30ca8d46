"""Emu: one objective for words and pictures in turn: the next word, or the next vector of a picture.

Paper: Generative Pretraining in Multimodality (arXiv 2307.05222).  Code: baaivision/Emu, folder Emu1 (Apache-2.0).

    picture -> EVA-CLIP g/14 [N, 257, 1408] -> causal former [N, 32, 5120] -> [IMG] <image> x 32 [/IMG] -> LLaMA-13B
    behind [IMG]: 32 vectors, each of them regressed from the state before it -> Stable Diffusion that was tuned to them

Traps: the tower keeps EVA's 40th block, and its norm is Emu's own; the causal former is T5's decoder, without a
scale in its attention; a picture that is drawn is steered away from the one that is imagined behind nothing.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.emu.checkpoint import gather, parse_config, published
from polymodal.systems.emu.recipe import RECIPE

LICENSE = "Apache-2.0 (code); weights under the LLaMA licence"

SYSTEM = System(
    id="emu",
    aliases=("Emu", "Emu1", "Emu-I"),
    year=2023,
    fusion=("C",),
    assembly="VisualRegressionLM",
    inputs=("text", "image"),
    outputs=("text", "image"),
    formats=(
        CheckpointFormat(
            name="official Emu",
            parse_config=parse_config,
            matches=hf("emu"),
            entry=("module", ""),
            gather=gather,
        ),
    ),
    variants=(
        Variant(name="14b", parameters=14_208_419_072, config=published(),
                summary="draws with the folders unet, vae and scheduler beside it",
                repository=Repository(name="BAAI/Emu", license=LICENSE)),
        Variant(name="14b-instruct", parameters=14_234_653_952, config=published(lora_r=16), summary="Emu-I",
                repository=Repository(name="BAAI/Emu", license=LICENSE)),
    ),
    headline="words and pictures in turn, in and out, by one objective; what it imagines vector by vector is drawn",
    reference="arXiv 2307.05222",
    recipe=RECIPE,
)  # fmt: skip
