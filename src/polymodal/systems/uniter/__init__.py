"""UNITER: one stream of BERT over word pieces and a detector's regions, with words and regions aligned by transport.

    text -> BERT cased, kind 0 [B, T, D] --------------------------------+-> 12 or 24 blocks over [text; regions]
    10 to 100 regions of Faster R-CNN [B, R, 2048], boxes, kind 1 [B, R, D] -+
    -> [CLS] -> dense, tanh -> match, rank, answers (3129);  text -> words;  regions -> features, 1601 classes, score

Paper: UNITER (arXiv 1909.11740).  Code: ChenRocks/UNITER (MIT), whose scripts name the weights (uniter-base.pt,
uniter-large.pt); no hub.  The detector's features are inputs: `pm.regions(file)`, or a detector plugged in.
Traps: the vocabulary is cased; the kind of regions is row 1 of the text's own table; the regression of features uses
the embedding matrix transposed; where padding stands (official code moves it to the end) changes nothing.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.uniter.checkpoint import ANSWERS, PRETRAINED, REGIONS, RETRIEVAL, parse_config, read_shapes
from polymodal.systems.uniter.recipe import RECIPE


def published(kind: str, large: bool = False, **more: Any) -> dict[str, Any]:
    """config/uniter-base.json or uniter-large.json of the official repository."""
    return {
        "model_type": "uniter", "kind": kind, "hidden_size": 1024 if large else 768, "vocab_size": 28996,
        "num_hidden_layers": 24 if large else 12, "num_attention_heads": 16 if large else 12,
        "intermediate_size": 4096 if large else 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
        "img_dim": 2048, **more,
    }  # fmt: skip


def _variant(name: str, parameters: int, kind: str, large: bool = False, **more: Any) -> Variant:
    return Variant(
        name=name, parameters=parameters, config=published(kind, large, **more),
        summary="acvrpublicycchen.blob.core.windows.net/uniter, scripts/download_*.sh of ChenRocks/UNITER",
    )  # fmt: skip


SYSTEM = System(
    id="uniter",
    aliases=("UNITER",),
    year=2019,
    fusion=("fusion-encoder",),
    assembly="RegionText",
    inputs=("regions", "text"),
    outputs=("match", "answer", "rank", "words", "region classes", "region score"),
    headline="one stream of words and regions, aligned with each other by optimal transport",
    reference="arXiv 1909.11740",
    formats=(
        CheckpointFormat(name="official UNITER", matches=hf("uniter"), parse_config=parse_config, infer=read_shapes),
    ),
    variants=(
        _variant("base", 112_938_887, PRETRAINED, img_label_dim=1601),
        _variant("large", 340_524_935, PRETRAINED, True, img_label_dim=1601),
        _variant("base-vqa", 115_892_281, ANSWERS, num_labels=3129),
        _variant("large-vqa", 344_210_489, ANSWERS, True, num_labels=3129),
        _variant("base-retrieval", 109_901_059, RETRIEVAL),
        _variant("base-refcoco", 109_899_521, REGIONS, mlp=1),
    ),
    recipe=RECIPE,
)
