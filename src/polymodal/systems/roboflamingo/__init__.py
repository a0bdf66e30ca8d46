"""RoboFlamingo: a robot's arm by language, from OpenFlamingo's hidden states and a policy that remembers.

Paper: RoboFlamingo (arXiv 2311.01378).  Code: RoboFlamingo/RoboFlamingo (MIT), read at 1475a07.

    static and gripper camera of each step -> CLIP ViT-L/14 -> one Perceiver resampler for both
        -> 128 latents of a step -> keys and values of the gated blocks                             (fusion type A)
    `<image>instruction<|endofchunk|><|endoftext|>` -> language model, each step alone -> maximum over tokens
        -> LSTM over the last 12 steps -> 6 numbers of the pose, gripper open or closed

Traps: MPT-1B's policy reads what enters the last layer, not its output; the maximum runs over padding too; the script
asks for gated blocks every 4 layers, but the table of `factory.py` decides (1 for MPT-1B).
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.roboflamingo.checkpoint import gather, infer, parse_config, published
from polymodal.systems.roboflamingo.recipe import RECIPE

HUB = Repository(name="roboflamingo/RoboFlamingo", license="MIT; language model Apache-2.0")

SYSTEM = System(
    id="roboflamingo",
    aliases=("RoboFlamingo", "Robo-Flamingo"),
    year=2023,
    fusion=("A",),
    assembly="ActionPolicy",
    inputs=("text", "image"),
    outputs=("action",),
    formats=(
        CheckpointFormat(
            name="official RoboFlamingo",
            parse_config=parse_config,
            matches=hf("roboflamingo"),
            gather=gather,
            infer=infer,
            entry=("model_state_dict", ""),
        ),
    ),
    variants=(
        Variant(name="mpt-dolly-3b", parameters=2_723_962_424, config=published("3b"), repository=HUB),
        Variant(name="mpt-3b", parameters=2_723_962_424, config=published("3b"), repository=HUB),
        Variant(name="mpt-4b", parameters=4_078_041_640, config=published("4b"), repository=HUB),
        Variant(name="mpt-base-4b", parameters=4_078_041_640, config=published("4b"), repository=HUB),
        Variant(name="mpt-9b", parameters=8_304_698_904, config=published("9b"), repository=HUB),
    ),
    headline="a robot's arm told in words what to do: an action for each step, from two cameras and what came before",
    reference="arXiv 2311.01378",
    recipe=RECIPE,
)
