"""VL-BEiT: one stack of experts trained from scratch by masked prediction alone, on pictures, texts and pairs at once.

    picture -> 16 x 16 patches, class token --+-> 12 pre-norm blocks: attention of all to all, shared; a feed-forward
    text -> pieces, both ends marked ---------+   expert of pictures, one of words, in the last 2 one of pairs
    -> words; codes of patches (a head of the training alone);  answers, two pictures a text, cosines as in BEiT-3

Paper: VL-BEiT (arXiv 2206.01127).  Neither code nor weights were published (microsoft/unilm has a page of one line).
Confirmed by the abstract: one shared stack, one stage, masked prediction on texts, pictures and pairs.  Recalled from
the paper and not confirmed: width 768, 12 blocks, 12 heads, masks of 15, 40 and 50 %.  Taken from near relatives:
blocks and their experts, of pairs in the last 2 (VLMo's base size, arXiv 2111.02358, without its layer scale and
relative positions), norms of eps 1e-6; learned absolute positions, heads, vocabulary and 64 text positions of BEiT-3.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.vl_beit.checkpoint import ANSWERS, PAIRS, RETRIEVAL, WORDS, parse_config
from polymodal.systems.vl_beit.recipe import RECIPE


def base(kind: str, side: int = 224, **more: Any) -> dict[str, Any]:
    """The base size, the only one of the paper."""
    return {
        "model_type": "vl-beit", "kind": kind, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "pair_layers": 2, "image_size": side, "patch_size": 16, "vocab_size": 64010,
        "max_position_embeddings": 64, **more,
    }  # fmt: skip


def _variant(name: str, parameters: int, config: dict[str, Any]) -> Variant:
    return Variant(name=name, parameters=parameters, config=config, summary="from the paper; no weights were published")


SYSTEM = System(
    id="vl-beit",
    aliases=("VL-BEiT", "VL-BEiT (Generative Vision-Language Pretraining)", "VL-BEIT"),
    year=2022,
    fusion=("fusion-encoder",),
    assembly="Multiway",
    inputs=("image", "text"),
    outputs=("words", "answer", "class", "similarity", "embedding"),
    headline="one shared stack of experts trained from scratch by masked prediction on pictures, texts and pairs",
    reference="arXiv 2206.01127",
    formats=(CheckpointFormat(name="VL-BEiT of this project", matches=hf("vl-beit"), parse_config=parse_config),),
    variants=(
        _variant("base", 250_361_354, base(WORDS)),
        _variant("base-vqa", 207_723_321, base(ANSWERS, num_labels=3129)),
        _variant("base-nlvr2", 205_870_082, base(PAIRS, num_labels=2)),
        _variant("base-retrieval", 202_317_313, base(RETRIEVAL)),
    ),
    recipe=RECIPE,
)
