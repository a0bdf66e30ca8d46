"""ModaVerse: its answers say in words what shall be made, and frozen text-to-X models make it.

Paper: ModaVerse: Efficiently Transforming Modalities with LLMs (arXiv 2401.06395).

    picture, video, sound -> ImageBind -> linear [N, 1, D] -> between <Media> and </Media> -> Vicuna with low-rank paths
    "Modality: [IMAGE] Prompt: a cat on a roof ###" -> Stable Diffusion, text-to-video or AudioLDM          (type C)

Traps: sound enters with ImageBind's scale of 20, unlike PandaGPT's and NExT-GPT's; the published folder holds what was
trained alone, and a config.json of the language model, which is left out beside imagebind_huge.pth and Vicuna's folder.
"""

from __future__ import annotations

from polymodal.encoders import imagebind_keys
from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.modaverse.checkpoint import LLAMA_7B, gather, infer, parse_config
from polymodal.systems.modaverse.recipe import RECIPE

SYSTEM = System(
    id="modaverse",
    aliases=("ModaVerse",),
    year=2024,
    fusion=("C",),
    assembly="MetaResponseLM",
    inputs=("text", "image", "video", "audio"),
    outputs=("text", "image", "video", "audio"),
    formats=(
        CheckpointFormat(
            name="official ModaVerse",
            parse_config=parse_config,
            infer=infer,
            gather=gather,
            matches=hf("modaverse"),
        ),
    ),
    variants=(
        Variant(
            name="7b",
            parameters=7_976_998_657,
            summary="delta on ImageBind huge and Vicuna v0",
            config={
                "model_type": "modaverse",
                "imagebind": imagebind_keys.HUGE,
                "llama": LLAMA_7B,
                "lora_r": 32,
                "lora_alpha": 32,
            },
            repository=Repository(name="xinke-wang/ModaVerse-7b-v0", license="BSD-3-Clause"),
        ),
    ),
    headline="any to any without an output projector: its answer names a modality and a prompt for another model",
    reference="arXiv 2401.06395",
    recipe=RECIPE,
)
