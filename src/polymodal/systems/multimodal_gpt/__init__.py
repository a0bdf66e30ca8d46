"""MultiModal-GPT: OpenFlamingo's first release with low-rank paths, tuned on instructions with and without pictures.

Paper: MultiModal-GPT: A Vision and Language Model for Dialogue with Humans (arXiv 2305.04790).

    vision_x [B, 1, 1, 3, 224, 224] -> CLIP ViT-L/14, patches of the last layer, not normed [1, 256, 1024]
        -> Perceiver resampler [1, 64, 1024] -> keys and values of the gated blocks                  (fusion type A)
    -> LLaMA-7B, a gated block in front of the last layer of each group of four; low-rank paths beside every linear of
       its attention and of the gated blocks -> text

Traps: the picture is seen by the text in FRONT of it: text looks at the next picture, as its code was left after the
first release of OpenFlamingo, so an answer knows of it through the model's own attention alone; without a picture the
gated blocks are left out; every turn of a conversation begins with `<s>`.
"""

from __future__ import annotations

from polymodal.checkpoints import open_flamingo_lora
from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.multimodal_gpt.checkpoint import parse_config, published
from polymodal.systems.multimodal_gpt.recipe import RECIPE

SYSTEM = System(
    id="multimodal-gpt",
    aliases=("MultiModal-GPT", "MMGPT", "MM-GPT"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="official mmgpt", parse_config=parse_config, matches=hf("multimodal_gpt"),
               gather=lambda files: open_flamingo_lora.gather(files.folder), entry=open_flamingo_lora.ENTRY),
    ),
    variants=(
        Variant(name="7b", parameters=8_244_703_248, config=published(),
                summary="mmgpt-lora-v0-release.pt of download.openmmlab.com, on OpenFlamingo-9B and LLaMA-7B",
                repository=Repository(name="openflamingo/OpenFlamingo-9B", license="LLaMA, not for commercial use")),
    ),
    headline="talks about a picture or without one, by low-rank paths in language and cross-attention layers alike",
    reference="arXiv 2305.04790",
    recipe=RECIPE,
)  # fmt: skip
