"""ViLBERT's official files as models: `pytorch_model_*.bin` beside the config of its repository (bert_base_6layer_*).

pretrained   bert.*, cls.*                                 task   the same with the heads of five tasks
A config names no class; the names of the file do, and where there is no config either, sizes are read off its shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.backbones import encoder as text_encoder
from polymodal.backbones.encoder import BODY_KEYS, TokenHeadConfig, head_keys, post_norm_rows, weight_and_bias
from polymodal.checkpoints.region_text import assemble_regions, region_part
from polymodal.encoders.region_heads import DenseHeadConfig, WeightNormHeadConfig
from polymodal.encoders.regions import RegionEmbeddingConfig
from polymodal.errors import ConfigError
from polymodal.fusion.exchange import ExchangeConfig, FeedForwardBlockConfig
from polymodal.models.region_text import Head, PoolConfig, RegionTextConfig, TwoStreams
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.systems import ModelSpec, Part
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import Unsqueeze

PRETRAINED, TASK = "BertForMultiModalPreTraining", "VILBertForVLTasks"
POSITIONS = 5
EPS = 1e-12


def shape_of(config: Mapping[str, Any]) -> RegionTextConfig:
    """The model that a BertConfig of the official code describes, without its heads."""
    norm = LayerNormConfig(eps=EPS)
    text = text_encoder.parse_config({**config, "layer_norm_eps": EPS})
    width, wide, joint = text.width, config["v_hidden_size"], config["bi_hidden_size"]
    heads = config["bi_num_attention_heads"]
    places = tuple(zip(config["t_biattention_id"], config["v_biattention_id"], strict=True))
    if not config.get("with_coattention", True):
        raise ConfigError("vilbert: with_coattention false is not supported")

    def reader(own: int, other: int) -> AttentionConfig:
        return AttentionConfig(width=own, heads=heads, head_dim=joint // heads, source_width=other, qkv_bias=True,
                               out_bias=True)  # fmt: skip

    def feed(own: int, wide: int, act: str) -> FeedForwardBlockConfig:
        return FeedForwardBlockConfig(width=own, mlp=MLPConfig(width=own, ffn_width=wide, activation=act), norm=norm)

    act, seen = config.get("hidden_act", "gelu"), config.get("v_hidden_act", "gelu")
    image = PostNormBlockConfig(
        attention=AttentionConfig(width=wide, heads=config["v_num_attention_heads"], qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=wide, ffn_width=config["v_intermediate_size"], activation=seen),
        norm=norm,
    )
    exchange = ExchangeConfig(
        read_image=reader(width, wide), read_text=reader(wide, width), norm=norm,
        text=feed(width, config.get("intermediate_size", 3072), act),
        image=feed(wide, config["v_intermediate_size"], seen),
    )  # fmt: skip
    streams = TwoStreams(
        image=(image,) * config["v_num_hidden_layers"], exchanges=(exchange,) * len(places), before=places
    )
    regions = RegionEmbeddingConfig(
        width=wide, features=config.get("v_feature_size", 2048), positions=POSITIONS, norm=norm
    )
    join = config.get("fusion_method", "mul")
    if join not in ("mul", "sum"):
        raise ConfigError(f"vilbert: fusion_method must be mul or sum, found {join!r}")
    pool = PoolConfig(width=joint, activation="relu", image_width=wide, join=join)
    return RegionTextConfig(text=text, regions=regions, pool=pool, streams=streams)


def heads_of(config: Mapping[str, Any], body: RegionTextConfig, architecture: str) -> dict[str, Head]:
    """The heads of pretraining, and of a task file those of all its tasks."""
    assert body.pool is not None and body.regions is not None
    width, wide, joint = body.text.width, body.regions.width, body.pool.width
    words = TokenHeadConfig(width=width, vocab_size=body.text.vocab_size, activation=config.get("hidden_act", "gelu"))
    classes = DenseHeadConfig(width=wide, hidden=wide, outputs=config.get("v_target_size", 1601),
                              activation=config.get("hidden_act", "gelu"))  # fmt: skip
    found = {
        "words": Head(reads="text", module=words),
        "classes": Head(reads="image", module=classes),
        "match": Head(reads="pooled", module=DenseHeadConfig(width=joint, outputs=2)),
    }
    if architecture == PRETRAINED:
        return found
    answers = WeightNormHeadConfig(width=joint, hidden=2 * joint, outputs=config.get("num_labels", 3129))
    return found | {
        "answer": Head(reads="pooled", module=answers),
        "rank": Head(reads="pooled", module=DenseHeadConfig(width=joint, outputs=1)),
        "regions": Head(reads="image", module=DenseHeadConfig(width=wide, outputs=1), score=True),
        "tokens": Head(reads="text", module=DenseHeadConfig(width=width, outputs=1)),
    }


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config of the official repository, with `architectures` and `num_labels` beside it where they are known."""
    architecture = (config.get("architectures") or [PRETRAINED])[0]
    if architecture not in (PRETRAINED, TASK):
        raise ConfigError(f"vilbert: architecture must be {PRETRAINED} or {TASK}; found {architecture}")
    body = shape_of(config)
    main = "match" if architecture == PRETRAINED else "answer"
    model = replace(body, heads=heads_of(config, body, architecture), main=main)
    assert model.streams is not None
    count = len(model.streams.exchanges)
    drawing = (
        region_part(model, "regions of Faster R-CNN"),
        Part(slot="encoder", name="BERT", prefix="text", input="input_ids [B, T]", output=f"[B, T, {body.text.width}]"),
        Part(slot="encoder", name="blocks of the regions", prefix="image_blocks", modality="regions",
             input=f"[B, 1 + R, {body.regions.width}]", output=f"[B, 1 + R, {body.regions.width}]"),
        Part(slot="backbone", name=f"co-attention, {count} times", prefix="exchanges", input="both streams",
             output=f"[B, T, {body.text.width}], [B, 1 + R, {body.regions.width}]"),
    )  # fmt: skip
    return ModelSpec(
        build=model.build, keys=(keys_of(architecture),), parts=drawing,
        assemble=lambda module, files: assemble_regions(
            module, files, longest=body.text.positions, most=100, whole_first=True, yes=0,
            answers=None if architecture == PRETRAINED else config.get("num_labels", 3129),
        ),
    )  # fmt: skip


def keys_of(architecture: str) -> KeyTable:
    """The official names."""
    cross, out = "encoder.c_layer.{}.biattention", "encoder.c_layer.{}.biOutput"
    rows: list[Row] = [
        *weight_and_bias("v_embeddings.image_embeddings", "regions.feature_proj"),
        *weight_and_bias("v_embeddings.image_location_embeddings", "regions.position_proj"),
        *weight_and_bias("v_embeddings.LayerNorm", "regions.norm"),
        *post_norm_rows("encoder.v_layer.{}", "image_blocks.{}"),
        *weight_and_bias("t_pooler.dense", "text_pool"),
        *weight_and_bias("v_pooler.dense", "image_pool"),
        drop(f"{out}.q_dense1.**"),
        drop(f"{out}.q_dense2.**"),
    ]
    # 1 is the picture's stream and 2 the text's: the text asks with query2 and reads key1 and value1.
    for read, asks, read_from, to in (("read_image", 2, 1, 2), ("read_text", 1, 2, 1)):
        ours = f"exchanges.{{}}.{read}"
        for name, source in (("query", asks), ("key", read_from), ("value", read_from)):
            rows += weight_and_bias(f"{cross}.{name}{source}", f"{ours}.attn.{name[0]}_proj")
        rows += weight_and_bias(f"{out}.dense{to}", f"{ours}.attn.o_proj")
        rows += weight_and_bias(f"{out}.LayerNorm{to}", f"{ours}.norm")
    for letter, stream in (("v", "image"), ("t", "text")):
        ours = f"exchanges.{{}}.{stream}"
        rows += weight_and_bias(f"encoder.c_layer.{{}}.{letter}_intermediate.dense", f"{ours}.mlp.up_proj")
        rows += weight_and_bias(f"encoder.c_layer.{{}}.{letter}_output.dense", f"{ours}.mlp.down_proj")
        rows += weight_and_bias(f"encoder.c_layer.{{}}.{letter}_output.LayerNorm", f"{ours}.mlp_norm")
    body = KeyTable(tuple(rows)).prefixed("bert.") + BODY_KEYS.prefixed("bert.", "text.")
    words = head_keys("cls.predictions.", embedding="bert.embeddings.word_embeddings.weight", bias="bias")
    heads = [
        *weight_and_bias("cls.bi_seq_relationship", "heads.match"),
        *weight_and_bias("cls.imagePredictions.transform.dense", "heads.classes.dense"),
        *weight_and_bias("cls.imagePredictions.transform.LayerNorm", "heads.classes.norm"),
        *weight_and_bias("cls.imagePredictions.decoder", "heads.classes.proj"),
    ]
    if architecture == TASK:
        for at, part in ((0, "dense"), (3, "proj")):
            theirs, target = f"vil_prediction.main.{at}", f"heads.answer.{part}"
            heads += [rename(f"{theirs}.{leaf}", f"{target}.{leaf}") for leaf in ("weight_v", "bias")]
            heads.append(rename(f"{theirs}.weight_g", f"{target}.weight_g", Unsqueeze()))
        for theirs, target in (("vil_logit", "rank"), ("vision_logit", "regions"), ("linguisic_logit", "tokens")):
            heads += weight_and_bias(theirs, f"heads.{target}")
    return body + words.prefixed(target="heads.words.") + KeyTable(tuple(heads))


def read_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official file, None for another's.  Heads of 64 (text) and 128 channels, and exchanges before
    the last blocks of the text and before every block of the picture, are what was published; no tensor says them."""
    if "bert.encoder.c_layer.0.biattention.query1.weight" not in shapes:
        return None

    def depth(name: str) -> int:
        return 1 + max(int(key.split(".")[3]) for key in shapes if key.startswith(f"bert.encoder.{name}."))

    vocabulary, width = shapes["bert.embeddings.word_embeddings.weight"]
    wide, features = shapes["bert.v_embeddings.image_embeddings.weight"]
    joint, blocks, exchanges = shapes["bert.t_pooler.dense.weight"][0], depth("layer"), depth("c_layer")
    if exchanges > blocks:
        return None
    task = "vil_logit.weight" in shapes
    found = {
        "hidden_size": width, "vocab_size": vocabulary, "num_hidden_layers": blocks, "v_feature_size": features,
        "num_attention_heads": max(1, width // 64), "v_num_attention_heads": max(1, wide // 128),
        "bi_num_attention_heads": max(1, joint // 128), "v_hidden_size": wide, "bi_hidden_size": joint,
        "intermediate_size": shapes["bert.encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes["bert.embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes["bert.embeddings.token_type_embeddings.weight"][0],
        "v_num_hidden_layers": depth("v_layer"),
        "v_intermediate_size": shapes["bert.encoder.v_layer.0.intermediate.dense.weight"][0],
        "v_target_size": shapes["cls.imagePredictions.decoder.weight"][0],
        "v_biattention_id": list(range(exchanges)), "t_biattention_id": list(range(blocks - exchanges, blocks)),
        "architectures": [TASK if task else PRETRAINED],
    }  # fmt: skip
    return found | ({"num_labels": shapes["vil_prediction.main.3.weight_v"][0]} if task else {})
