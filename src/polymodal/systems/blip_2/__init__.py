"""BLIP-2 (arXiv 2301.12597): a frozen image encoder and a frozen language model, bridged by a Q-Former alone.

    pixel_values [N,3,224,224] -> EVA ViT-g, 39 blocks -> norm [N,257,1408] -> Q-Former, 32 queries -> linear
    [<image> x 32] </s> text -> OPT: queries at <image>, answer behind the text
    [<image> x 32] text </s> -> Flan-T5's encoder; its decoder writes the answer
    first stage alone: queries against texts (similarity), queries with a text (matching)

Traps: the image comes before the BOS token of OPT; Flan-T5 runs with the exact gelu; the official file's ln_vision has
eps 1e-5, the hub's class 1e-6; the official files do not hold the language model.
"""

from __future__ import annotations

from polymodal.checkpoints import lavis
from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.blip_2.checkpoint import (
    _ITM,
    _OPT,
    _T5,
    FLAN_T5_XL,
    FLAN_T5_XXL,
    OPT_2_7B,
    OPT_6_7B,
    RETRIEVAL,
    _variant,
    parse_config,
    parse_retrieval_config,
)
from polymodal.systems.blip_2.recipe import RECIPE

SYSTEM = System(
    id="blip-2",
    aliases=("BLIP-2", "BLIP2"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("image", "text"),
    outputs=("text", "similarity", "match"),
    formats=(
        CheckpointFormat(
            name="transformers Blip2ForConditionalGeneration",
            parse_config=parse_config,
            matches=hf("blip-2", "Blip2ForConditionalGeneration", "Blip2Model"),
        ),
        CheckpointFormat(
            name="transformers Blip2ForImageTextRetrieval",
            parse_config=parse_retrieval_config,
            matches=hf("blip-2", *RETRIEVAL),
        ),
        CheckpointFormat(
            name="LAVIS Blip2OPT and Blip2T5",
            parse_config=lavis.parse_second_stage,
            matches=hf("lavis-blip2"),
            infer=lavis.infer_second,
            entry=("model", ""),
            gather=lavis.gather,
        ),
        CheckpointFormat(
            name="LAVIS Blip2Qformer",
            parse_config=lavis.parse_first_stage,
            matches=hf("lavis-blip2-qformer"),
            infer=lavis.infer_first,
            entry=("model", ""),
        ),
    ),
    variants=(
        _variant("opt-2.7b", 3_744_679_936, OPT_2_7B, 50265, _OPT),
        _variant("opt-6.7b", 7_752_738_304, OPT_6_7B, 50265, _OPT),
        _variant("flan-t5-xl", 3_942_446_592, FLAN_T5_XL, 32100, _T5),
        _variant("flan-t5-xxl", 12_229_596_672, FLAN_T5_XXL, 32100, _T5),
        Variant(
            name="itm-vit-g",
            parameters=1_172_032_258,
            config=_ITM,
            format=1,
            repository=Repository(name="Salesforce/blip2-itm-vit-g", license="MIT"),
        ),
    ),
    headline="zero-shot image-to-text generation: only 32 queries and a linear lie between two frozen models",
    reference="arXiv 2301.12597",
    recipe=RECIPE,
)
