"""CogCoM: CogVLM that cuts a region out of its picture, looks at it enlarged, and goes on.

Paper: CogCoM: A Visual Language Model with Chain-of-Manipulations Reasoning (arXiv 2402.04236).

    <s> picture, question -> answer ... CROP_AND_ZOOMIN([[086,540,400,760]], 2) ...
    <s> that region, twice as large, "Based on this new image ..." -> answer ... until no region is asked for
    each turn: CogVLM's EVA2-CLIP-E, gated MLP with two markers, visual expert in every layer             (types B, C)

What was computed for the turns before stays in front of each turn, so all of them are one row here.
Traps: positions start at 0 in every turn; keys keep the rotation of their own turn; an answer ends with </s> in
training, and in a chain nothing follows it; the published parser takes "086" for no number and then does not cut.
The files are SwissArmyTransformer's (`1/mp_rank_00_model_states.pt` of the zip), with Vicuna's tokenizer beside them.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, ConfigMatch, Repository, System, Variant
from polymodal.systems.cogcom.checkpoint import CLASS, infer, parse_config
from polymodal.systems.cogcom.recipe import RECIPE

TOWER = {"model_class": "EVA2CLIPModel", "num_layers": 63, "hidden_size": 1792, "num_attention_heads": 16,
         "layernorm_order": "post", "inner_hidden_size": 15360, "use_final_layernorm": False,
         "layernorm_epsilon": 1e-6, "image_size": [490, 490], "pre_len": 1, "post_len": 0, "in_channels": 3,
         "patch_size": 14}  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "model_class": CLASS, "num_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 32000,
    "layernorm_order": "pre", "model_parallel_size": 1, "use_bias": False, "inner_hidden_size": 11008,
    "image_length": 1225, "eva_args": TOWER}  # fmt: skip
LICENSE = "CogCoM License: research free, commercial on registration"


def variant(name: str) -> Variant:
    release = Repository(name=f"qijimrc/CogCoM cogcom-{name}-17b.zip", kind="official", license=LICENSE)
    return Variant(name=name, parameters=17_639_685_376, config=PUBLISHED, repository=release)


SYSTEM = System(
    id="cogcom",
    aliases=("CogCoM-17B", "CogCoM"),
    year=2024,
    fusion=("B", "C"),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="SwissArmyTransformer CogCoM",
            matches=ConfigMatch(score=lambda config: config.get("model_class") == CLASS, keys=("eva_args",)),
            parse_config=parse_config,
            infer=infer,
            entry=("module", ""),
        ),
    ),
    variants=(variant("base"), variant("grounding"), variant("chat")),
    headline="cuts out and enlarges what it must see better, and answers from the new picture and all turns before",
    reference="arXiv 2402.04236",
    recipe=RECIPE,
)
