"""LXMERT: language and object blocks by themselves, then blocks in which each stream reads the other.

    text -> BERT embeddings -> 9 blocks [B, T, 768] ------------------------+-> 5 x (ONE cross-attention for both ways
    36 regions of Faster R-CNN [B, R, 2048] + boxes, mean of two norms       |    -> self-attention, feed-forward each)
       -> 5 blocks [B, R, 768] ----------------------------------------------+
    -> [CLS] -> dense, tanh -> answers (9500 of pretraining), match;  text -> words;  regions -> objects, attributes

Paper: LXMERT (arXiv 1908.07490).  Weights: unc-nlp/lxmert-base-uncased, -vqa-uncased, -gqa-uncased, the library's
layout; the official code is MIT.  The detector's features are inputs: `pm.regions(file)`, or a detector plugged in.
Traps: the two projections of a region are averaged; boxes have four numbers; hub files do not name their answers (put
the list of the official repository, trainval_label2ans.json, beside them).
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.lxmert.checkpoint import ANSWERS, MODEL, PRETRAINING, parse_config
from polymodal.systems.lxmert.recipe import RECIPE


def _variant(name: str, parameters: int, hub: str, architecture: str, **more: Any) -> Variant:
    config = {"model_type": "lxmert", "architectures": [architecture], **more}
    return Variant(
        name=name, parameters=parameters, config=config, repository=Repository(name=f"unc-nlp/lxmert-{hub}-uncased")
    )


SYSTEM = System(
    id="lxmert",
    aliases=("LXMERT",),
    year=2019,
    fusion=("fusion-encoder",),
    assembly="RegionText",
    inputs=("regions", "text"),
    outputs=("answer", "match", "words", "objects", "attributes"),
    headline="two-stream encoder with separate language, object and cross-modality layers",
    reference="arXiv 1908.07490",
    formats=(
        CheckpointFormat(
            name="transformers Lxmert", matches=hf("lxmert", MODEL, PRETRAINING, ANSWERS), parse_config=parse_config
        ),
    ),
    variants=(
        _variant("base", 228_051_752, "base", PRETRAINING),
        _variant("vqa", 213_930_297, "vqa", ANSWERS, num_qa_labels=3129),
        _variant("gqa", 211_952_178, "gqa", ANSWERS, num_qa_labels=1842),
    ),
    recipe=RECIPE,
)
