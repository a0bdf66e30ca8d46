"""UNITER's official files as models, told apart by the heads that their names have; sizes are read off their shapes.

pretrained   cls, feat_regress, region_classifier, itm_output      answers    vqa_output (VQA, entailment)
retrieval    itm_output, rank_output                               regions    re_output (referring expressions)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.backbones import encoder as text_encoder
from polymodal.backbones.encoder import BODY_KEYS, TokenHeadConfig, head_keys, weight_and_bias
from polymodal.checkpoints.region_text import assemble_regions, region_part
from polymodal.encoders.region_heads import DenseHeadConfig, FeatureRegressionConfig
from polymodal.encoders.regions import RegionEmbeddingConfig
from polymodal.errors import ConfigError
from polymodal.models.region_text import Head, PoolConfig, RegionTextConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.systems import ModelSpec, Part
from polymodal.weights.keytable import KeyTable, Row, drop, rename

PRETRAINED, ANSWERS, RETRIEVAL, REGIONS = "pretrained", "answers", "retrieval", "regions"
KINDS = (PRETRAINED, ANSWERS, RETRIEVAL, REGIONS)
EPS = 1e-12
POSITIONS = 7
LONGEST = 62  # 60 word pieces between [CLS] and [SEP]
Shapes = Mapping[str, Sequence[int]]


def read_shapes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an official file, None for another's.  Heads of 64 channels are what was published."""
    if "uniter.img_embeddings.img_linear.weight" not in shapes:
        return None
    vocabulary, width = shapes["uniter.embeddings.word_embeddings.weight"]
    depth = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("uniter.encoder.layer."))
    found: dict[str, Any] = {
        "model_type": "uniter", "hidden_size": width, "vocab_size": vocabulary,
        "num_hidden_layers": depth, "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes["uniter.encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes["uniter.embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes["uniter.embeddings.token_type_embeddings.weight"][0],
        "img_dim": shapes["uniter.img_embeddings.img_linear.weight"][1],
    }  # fmt: skip
    if "region_classifier.net.3.weight" in shapes:
        return found | {"kind": PRETRAINED, "img_label_dim": shapes["region_classifier.net.3.weight"][0]}
    if "vqa_output.3.weight" in shapes:
        return found | {"kind": ANSWERS, "num_labels": shapes["vqa_output.3.weight"][0]}
    if "rank_output.weight" in shapes:
        return found | {"kind": RETRIEVAL}
    if "re_output.weight" in shapes or "re_output.3.weight" in shapes:
        return found | {"kind": REGIONS, "mlp": 2 if "re_output.3.weight" in shapes else 1}
    return None


def shape_of(config: Mapping[str, Any], kind: str) -> RegionTextConfig:
    """The model that a config of the official repository describes, with the heads of one kind of file."""
    norm = LayerNormConfig(eps=EPS)
    text = text_encoder.parse_config({**config, "layer_norm_eps": EPS})
    width, features = text.width, config.get("img_dim", 2048)
    regions = RegionEmbeddingConfig(
        width=width, features=features, positions=POSITIONS, part_norms=norm, norm=norm, mask=True
    )

    def dense(outputs: int, hidden: int | None = None) -> DenseHeadConfig:
        return DenseHeadConfig(width=width, outputs=outputs, hidden=hidden)

    match = Head(reads="pooled", module=dense(2))
    heads: dict[str, dict[str, Head]] = {
        PRETRAINED: {
            "words": Head(reads="text", module=TokenHeadConfig(
                width=width, vocab_size=text.vocab_size, activation=config.get("hidden_act", "gelu"))),
            "features": Head(reads="image", module=FeatureRegressionConfig(width=width, features=features)),
            "classes": Head(reads="image", module=dense(config.get("img_label_dim", 1601), width)),
            "match": match,
        },
        ANSWERS: {"answer": Head(reads="pooled", module=dense(config.get("num_labels", 3129), 2 * width))},
        RETRIEVAL: {"rank": Head(reads="pooled", module=dense(1)), "match": match},
        REGIONS: {"regions": Head(reads="image", module=dense(1, width if config.get("mlp", 1) == 2 else None),
                                  score=True)},
    }  # fmt: skip
    main = {PRETRAINED: "match", ANSWERS: "answer", RETRIEVAL: "rank", REGIONS: "regions"}
    return RegionTextConfig(
        text=text, regions=regions, pool=PoolConfig(width=width), heads=heads[kind], main=main[kind]
    )


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand."""
    kind = config.get("kind", PRETRAINED)
    if kind not in KINDS:
        raise ConfigError(f"uniter: kind must be one of {', '.join(KINDS)}; found {kind}")
    model = shape_of(config, kind)
    width, depth = model.text.width, len(model.text.blocks)
    drawing = (
        region_part(model, "regions of Faster R-CNN"),
        Part(slot="backbone", name=f"BERT of {depth} blocks over both", prefix="text",
             input="input_ids [B, T], regions", output=f"[B, T + R, {width}]"),
    )  # fmt: skip
    head = "rank" if kind == RETRIEVAL else "match"
    return ModelSpec(
        build=model.build, keys=(keys_of(kind, config.get("mlp", 1)),), parts=drawing,
        assemble=lambda module, files: assemble_regions(
            module, files, longest=min(LONGEST, model.text.positions), most=100, least=10, threshold=0.2, head=head,
            answers=config.get("num_labels", 3129) if kind == ANSWERS else None,
        ),
    )  # fmt: skip


def keys_of(kind: str, mlp: int = 1) -> KeyTable:
    """The official names of one kind of file."""
    image, ours = "uniter.img_embeddings", "regions"
    rows: list[Row] = [
        *weight_and_bias(f"{image}.img_linear", f"{ours}.feature_proj"),
        *weight_and_bias(f"{image}.pos_linear", f"{ours}.position_proj"),
        *weight_and_bias(f"{image}.img_layer_norm", f"{ours}.feature_norm"),
        *weight_and_bias(f"{image}.pos_layer_norm", f"{ours}.position_norm"),
        *weight_and_bias(f"{image}.LayerNorm", f"{ours}.norm"),
        rename(f"{image}.mask_embedding.weight", f"{ours}.mask.weight"),
        *weight_and_bias("uniter.pooler.dense", "text_pool"),
    ]
    table = BODY_KEYS.prefixed("uniter.", "text.")
    if kind == PRETRAINED:
        words = head_keys("cls.predictions.", embedding="uniter.embeddings.word_embeddings.weight", bias="bias")
        table += words.prefixed(target="heads.words.")
        rows += _dense("feat_regress.net", "heads.features", last=False)
        rows += _dense("region_classifier.net", "heads.classes")
        rows += [rename("feat_regress.bias", "heads.features.bias"), *weight_and_bias("itm_output", "heads.match")]
        rows.append(drop("feat_regress.weight", copy_of="uniter.img_embeddings.img_linear.weight"))
    elif kind == ANSWERS:
        rows += _dense("vqa_output", "heads.answer")
    elif kind == RETRIEVAL:
        rows += [*weight_and_bias("itm_output", "heads.match"), *weight_and_bias("rank_output", "heads.rank")]
    elif kind == REGIONS:
        rows += _dense("re_output", "heads.regions") if mlp == 2 else weight_and_bias("re_output", "heads.regions")
    return KeyTable(tuple(rows)) + table


def _dense(source: str, target: str, last: bool = True) -> list[Row]:
    """`<source>.{0,2,3}` -> dense, norm and projection of a head."""
    parts = (("0", "dense"), ("2", "norm"), *((("3", "proj"),) if last else ()))
    return [row for at, part in parts for row in weight_and_bias(f"{source}.{at}", f"{target}.{part}")]
