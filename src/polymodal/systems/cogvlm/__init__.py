"""CogVLM: a picture meets its own weights in every layer of the language model.

Paper: CogVLM: Visual Expert for Pretrained Language Models (arXiv 2311.03079).

    picture -> 490 x 490, aspect not kept -> EVA2-CLIP-E without its last layer [N, 1225, 1792]
            -> gated MLP, begin and end marker [N, 1227, D] -> spliced behind `<s>`                    (fusion type C)
    every block: q, k, v, o and MLP of the begin marker and the patches are a visual expert's          (fusion type B)

Traps: the end marker takes the language weights; all patches of a picture share one rotary position; the placeholders
are <unk>, which is the padding too, so a picture's positions come from `token_type_ids`; the template called "chat" in
the hub's code is the one the other code calls "chat_old".
"""

from __future__ import annotations

from polymodal.systems import (
    CheckpointFormat,
    ConfigMatch,
    System,
)
from polymodal.systems.cogvlm.checkpoint import _variant, parse_config
from polymodal.systems.cogvlm.recipe import RECIPE

SYSTEM = System(
    id="cogvlm",
    aliases=("CogVLM-17B", "CogVLM"),
    year=2023,
    fusion=("B", "C"),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="THUDM CogVLMForCausalLM",
            matches=ConfigMatch(
                model_types=("cogvlm",), architectures=("CogVLMForCausalLM",)
            ),  # published without a model_type
            parse_config=parse_config,
        ),
    ),
    variants=(
        _variant("chat", "cogvlm-chat-hf", 17_639_685_376, 490, "chat"),
        _variant("base-490", "cogvlm-base-490-hf", 17_639_685_376, 490, "base"),
        _variant("base-224", "cogvlm-base-224-hf", 17_637_948_928, 224, "base"),
        _variant("grounding-generalist", "cogvlm-grounding-generalist-hf", 17_639_685_376, 490, "base"),
    ),
    headline="a visual expert beside the attention and MLP weights of every language layer",
    reference="arXiv 2311.03079",
    recipe=RECIPE,
)
