"""CogAgent: CogVLM for screens, which sees a picture at two sizes.

Paper: CogAgent: A Visual Language Model for GUI Agents (arXiv 2312.08914).

    picture -> 224 x 224   -> EVA2-CLIP-E, positions, gated MLP, two markers [N, 258, D] -> behind `<s>`    (type C)
            -> 1120 x 1120 -> EVA02-CLIP-L without its last block, positions [N, 6400, 1024]
    every block: x + attention, x + cross-attention of all tokens to the 6400 features                     (type A)
                 x + MLP; q, k, v, o and MLP of the markers and patches are a visual expert's              (type B)

Traps: "post_cross_attention_layernorm" comes in front of the cross-attention; that has heads of 32, no gate and no
rotation; tokens in front of the picture see it too; the published code cannot answer without a picture, here the
cross-attention is then left out.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, ConfigMatch, System
from polymodal.systems.cogagent.checkpoint import parse_config, variant
from polymodal.systems.cogagent.recipe import RECIPE

SYSTEM = System(
    id="cogagent",
    aliases=("CogAgent-18B", "CogAgent"),
    year=2023,
    fusion=("B", "A", "C"),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="THUDM CogAgentForCausalLM",
            matches=ConfigMatch(
                model_types=("cogagent",), architectures=("CogAgentForCausalLM",)
            ),  # published without a model_type
            parse_config=parse_config,
        ),
    ),
    variants=(variant("chat", "cogagent-chat-hf", "chat"), variant("vqa", "cogagent-vqa-hf", "chat_old")),
    headline="sees a screen at 224 and 1120 pixels: every layer looks at 6400 features by cross-attention",
    reference="arXiv 2312.08914",
    recipe=RECIPE,
)
