"""ViLBERT: two streams of BERT, one of words and one of regions, that exchange keys and values.

    text -> BERT blocks 0-5 [B, T, 768] ---+-> 6 x (each stream reads the other -> feed-forward -> a block of its own)
    regions of Faster R-CNN [B, 1 + R, 2048], the first their mean, + boxes -> [B, 1 + R, 1024] -+
    -> first tokens -> dense, ReLU, multiplied [B, 1024] -> match, answers (3129), rank; regions -> 1601 classes, score

Paper: ViLBERT (arXiv 1908.02265).  Code: jiasenlu/vilbert_beta, whose README links the weights (Google Drive, 2 to 8
exchanges); no licence is stated.  The detector's features are inputs: `pm.regions(file)`, or a detector plugged in.
Traps: query 2 is the text's and meets key 1 of the picture; the pooled vectors end in ReLU; match class 0 is yes; the
config does not say which heads a file holds.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, ConfigMatch, System, Variant
from polymodal.systems.vilbert.checkpoint import PRETRAINED, TASK, parse_config, read_shapes
from polymodal.systems.vilbert.recipe import RECIPE


def published(exchanges: int, blocks: int = 12) -> dict[str, Any]:
    """config/bert_base_<n>layer_<n>conect.json of the official repository."""
    return {
        "hidden_size": 768, "num_hidden_layers": blocks, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2, "vocab_size": 30522,
        "v_feature_size": 2048, "v_target_size": 1601, "v_hidden_size": 1024, "v_num_hidden_layers": exchanges,
        "v_num_attention_heads": 8, "v_intermediate_size": 1024, "v_hidden_act": "gelu", "bi_hidden_size": 1024,
        "bi_num_attention_heads": 8, "v_biattention_id": list(range(exchanges)),
        "t_biattention_id": list(range(blocks - exchanges, blocks)),
    }  # fmt: skip


def _variant(name: str, parameters: int, exchanges: int, architecture: str = PRETRAINED, **more: Any) -> Variant:
    config = {**published(exchanges), "architectures": [architecture], **more}
    return Variant(name=name, parameters=parameters, config=config, summary="Google Drive, README of vilbert_beta")


SYSTEM = System(
    id="vilbert",
    aliases=("ViLBERT",),
    year=2019,
    fusion=("fusion-encoder",),
    assembly="RegionText",
    inputs=("regions", "text"),
    outputs=("match", "answer", "words", "region classes"),
    headline="two-stream BERT whose streams exchange keys and values (co-attention)",
    reference="arXiv 1908.02265",
    formats=(
        CheckpointFormat(
            name="official ViLBERT",
            matches=ConfigMatch(keys=("v_biattention_id",)),
            parse_config=parse_config,
            infer=read_shapes,
        ),
    ),
    variants=(
        _variant("6-layer", 250_044_029, 6),
        _variant("2-layer", 160_782_973, 2),
        _variant("4-layer", 205_413_501, 4),
        _variant("8-layer", 294_674_557, 8),
        _variant("6-layer-vqa", 258_557_371, 6, TASK, num_labels=3129),
    ),
    recipe=RECIPE,
)
