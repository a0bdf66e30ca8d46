"""CoDi: any mixture of texts, pictures, videos and sounds from any other, made together by diffusion.

Paper: Any-to-Any Generation via Composable Diffusion (arXiv 2305.11846).  Code: microsoft/i-Code, i-Code-V3 (MIT).

    text -> CLIP, picture or video -> CLIP with frames mixed, sound -> CLAP -> vectors of one space, their mean
    noise of each output -> U-Nets at the same time, each looking at the mean and at its environment vector -> latents
    -> codecs: Stable Diffusion's (frame by frame), AudioLDM's with HiFi-GAN, Optimus for texts

Traps: every condition is ONE vector; three scales of latents; the published forward lets a modality look at its own
environment vector, and joins the middle's output with itself (`generators/composable_unet.py`).
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.codi.checkpoint import gather, parse_config
from polymodal.systems.codi.published import CONFIG, infer
from polymodal.systems.codi.recipe import RECIPE

SYSTEM = System(
    id="codi",
    aliases=("CoDi", "Composable Diffusion"),
    year=2023,
    fusion=(),
    assembly="JointDiffusion",
    inputs=("text", "image", "video", "audio"),
    outputs=("text", "image", "video", "audio"),
    formats=(
        CheckpointFormat(
            name="official CoDi", parse_config=parse_config, matches=hf("codi"), gather=gather, infer=infer
        ),
    ),
    variants=(
        Variant(
            name="8frames",
            parameters=5_706_973_240,
            summary="encoders, codecs and the three U-Nets",
            config=CONFIG,
            repository=Repository(name="ZinengTang/CoDi", license="MIT"),
        ),
    ),
    headline="makes several modalities together, such as a video with its sound, from any mixture of inputs",
    reference="arXiv 2305.11846",
    recipe=RECIPE,
)
