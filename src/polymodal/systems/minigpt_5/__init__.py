"""MiniGPT-5: MiniGPT-4 that also draws: eight vokens in an answer stand for a picture of Stable Diffusion.

Paper: MiniGPT-5 (arXiv 2310.02239).  Code: eric-ai-lab/MiniGPT-5 (Apache-2.0).

    picture -> EVA ViT-g -> Q-Former -> linear [N, 32, 4096] -> spliced between <Img> and </Img> -> Vicuna-7B     (C)
    [IMG0]..[IMG7] in the answer: the states that wrote them -> mapper [k, 77, 1024] -> Stable Diffusion 2.1's U-Net

Traps: a condition is made of the states ONE before each voken; pictures are steered away from what the mapper makes of
zeros, not from an empty prompt; the second stage trains low-rank paths and copies of the table and the head.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.minigpt_5.checkpoint import VICUNA_7B, gather, parse_config
from polymodal.systems.minigpt_5.recipe import RECIPE

HUB = "KZ-ucsc/MiniGPT5"
LICENSE = "Apache-2.0 (code); Vicuna under the LLaMA licence, Stable Diffusion 2.1 under CreativeML OpenRAIL-M"
CONFIG = {"model_type": "minigpt5", "text_config": VICUNA_7B, "unet": {}}
BESIDE = "beside it MiniGPT-4's linear, EVA, the Q-Former, Vicuna-7B v0 and stable-diffusion-2-1-base"

SYSTEM = System(
    id="minigpt-5",
    aliases=("MiniGPT-5", "MiniGPT5"),
    year=2023,
    fusion=("C",),
    assembly="SignalTokenLM",
    inputs=("text", "image"),
    outputs=("text", "image"),
    formats=(
        CheckpointFormat(
            name="official MiniGPT-5",
            parse_config=parse_config,
            matches=hf("minigpt5"),
            entry=("state_dict", ""),
            gather=gather,
        ),
    ),
    variants=(
        Variant(name="7b-cc3m", parameters=9_245_550_635, config=CONFIG, summary=f"stage 1; {BESIDE}",
                repository=Repository(name=f"{HUB} stage1_cc3m.ckpt", kind="official", license=LICENSE)),
        Variant(name="7b-vist", parameters=9_511_962_667, config={**CONFIG, "lora_r": 8, "lora_alpha": 16},
                summary="stage 2 on VIST or on MMDialog, of one shape; stage 1 lies beside it",
                repository=Repository(name=f"{HUB} stage2_vist.ckpt", kind="official", license=LICENSE)),
    ),
    headline="stories of words and pictures in turn: the pictures that it sees, and those that its vokens draw",
    reference="arXiv 2310.02239",
    recipe=RECIPE,
)  # fmt: skip
