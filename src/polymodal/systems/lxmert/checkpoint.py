"""Published checkpoints of LXMERT: config to model, names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import encoder as text_encoder
from polymodal.backbones.encoder import (
    BIASES,
    BODY_KEYS,
    TokenHeadConfig,
    attention_keys,
    head_keys,
    post_norm_rows,
    weight_and_bias,
)
from polymodal.checkpoints.region_text import assemble_regions, region_part
from polymodal.encoders.region_heads import DenseHeadConfig, RegionLabelsConfig
from polymodal.encoders.regions import RegionEmbeddingConfig
from polymodal.errors import ConfigError
from polymodal.fusion.exchange import ExchangeConfig
from polymodal.models.region_text import Head, PoolConfig, RegionTextConfig, TwoStreams
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.systems import ModelSpec, Part
from polymodal.weights.keytable import KeyTable, Row

MODEL, PRETRAINING, ANSWERS = "LxmertModel", "LxmertForPreTraining", "LxmertForQuestionAnswering"
REGIONS = 36
EPS = 1e-12
LABELS = {"obj": ("visual_obj_loss", "num_object_labels", 1600), "attr": ("visual_attr_loss", "num_attr_labels", 400),
          "feat": ("visual_feat_loss", "visual_feat_dim", 2048)}  # fmt: skip
"""What is asked of regions, by the library's names: the option, the option of its size, the default."""
OURS = {"obj": "objects", "attr": "attributes", "feat": "features"}


def shape_of(config: Mapping[str, Any]) -> RegionTextConfig:
    """The model that an LxmertConfig describes, without its heads."""
    width, norm = config.get("hidden_size", 768), LayerNormConfig(eps=EPS)
    text = text_encoder.parse_config(
        {**config, "num_hidden_layers": config.get("l_layers", 9), "layer_norm_eps": EPS, "qkv_bias": True}
    )
    attention = AttentionConfig(width=width, heads=config.get("num_attention_heads", 12), qkv_bias=True, out_bias=True)
    mlp = MLPConfig(width=width, ffn_width=config.get("intermediate_size", 3072),
                    activation=config.get("hidden_act", "gelu"))  # fmt: skip
    block = PostNormBlockConfig(attention=attention, mlp=mlp, norm=norm)
    exchange = ExchangeConfig(
        read_image=replace(attention, source_width=width), read_text=None, text=block, image=block, norm=norm
    )
    count, before = config.get("x_layers", 5), (len(text.blocks), config.get("r_layers", 5))
    streams = TwoStreams(image=(block,) * before[1], exchanges=(exchange,) * count, before=(before,) * count)
    regions = RegionEmbeddingConfig(
        width=width, features=config.get("visual_feat_dim", 2048), positions=config.get("visual_pos_dim", 4),
        join="mean", part_norms=norm,
    )  # fmt: skip
    return RegionTextConfig(text=text, regions=regions, pool=PoolConfig(width=width), streams=streams)


def heads_of(config: Mapping[str, Any], body: RegionTextConfig, architecture: str) -> dict[str, Head]:
    """The heads of a class of the library, as far as the config's tasks have them."""
    width, activation = body.text.width, config.get("hidden_act", "gelu")
    found: dict[str, Head] = {}
    if architecture == PRETRAINING:
        tied = config.get("tie_word_embeddings", True)
        words = TokenHeadConfig(width=width, vocab_size=body.text.vocab_size, activation=activation, tied=tied)
        found["words"] = Head(reads="text", module=words)
        found["match"] = Head(reads="pooled", module=DenseHeadConfig(width=width, outputs=2))
        asked = {name: config.get(size, default) for name, (option, size, default) in LABELS.items()
                 if config.get(option, True)}  # fmt: skip
        if config.get("task_obj_predict", True):
            outputs = {OURS[name]: count for name, count in asked.items()}
            labels = RegionLabelsConfig(width=width, outputs=outputs, activation=activation)
            found["regions"] = Head(reads="image", module=labels)
    if architecture == ANSWERS or (architecture == PRETRAINING and config.get("task_qa", True)):
        answers = DenseHeadConfig(width=width, hidden=2 * width, outputs=config.get("num_qa_labels", 9500))
        found["answer"] = Head(reads="pooled", module=answers)
    return found


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Any `LxmertConfig`; without `architectures`, the model of pretraining."""
    architecture = (config.get("architectures") or [PRETRAINING])[0]
    if architecture not in (MODEL, PRETRAINING, ANSWERS):
        raise ConfigError(f"lxmert: architecture must be {MODEL}, {PRETRAINING} or {ANSWERS}; found {architecture}")
    body = shape_of(config)
    heads = heads_of(config, body, architecture)
    main = "answer" if "answer" in heads else "match" if "match" in heads else None
    model = replace(body, heads=heads, main=main)
    width, answers = body.text.width, config.get("num_qa_labels", 9500) if "answer" in heads else None
    drawing = (
        region_part(model, "regions of Faster R-CNN"),
        Part(slot="encoder", name="language blocks", prefix="text", input="input_ids [B, T]",
             output=f"[B, T, {width}]"),
        Part(slot="encoder", name="object blocks", prefix="image_blocks", modality="regions",
             input=f"[B, R, {width}]", output=f"[B, R, {width}]"),
        Part(slot="backbone", name="cross-modality blocks", prefix="exchanges", input="both streams",
             output=f"[B, T, {width}], [B, R, {width}]"),
    )  # fmt: skip
    return ModelSpec(
        build=model.build, keys=keys_of(architecture, heads), parts=drawing,
        assemble=lambda module, files: assemble_regions(
            module, files, longest=body.text.positions, most=REGIONS, answers=answers
        ),
    )  # fmt: skip


def keys_of(architecture: str, heads: Mapping[str, Head]) -> tuple[KeyTable, ...]:
    """The library's names; a file of pretraining calls the bias of its words by either of two names."""
    cross, ours = "encoder.x_layers.{}", "exchanges.{}"
    visual = "encoder.visn_fc"
    rows: list[Row] = [
        *weight_and_bias(f"{visual}.visn_fc", "regions.feature_proj"),
        *weight_and_bias(f"{visual}.visn_layer_norm", "regions.feature_norm"),
        *weight_and_bias(f"{visual}.box_fc", "regions.position_proj"),
        *weight_and_bias(f"{visual}.box_layer_norm", "regions.position_norm"),
        *post_norm_rows("encoder.r_layers.{}", "image_blocks.{}"),
        # One cross-attention serves both ways; it calls its inner part `att` where the others say `self`.
        *(weight_and_bias(f"{cross}.visual_attention.att.query", f"{ours}.read_image.attn.q_proj")),
        *(weight_and_bias(f"{cross}.visual_attention.att.key", f"{ours}.read_image.attn.k_proj")),
        *(weight_and_bias(f"{cross}.visual_attention.att.value", f"{ours}.read_image.attn.v_proj")),
        *(weight_and_bias(f"{cross}.visual_attention.output.dense", f"{ours}.read_image.attn.o_proj")),
        *(weight_and_bias(f"{cross}.visual_attention.output.LayerNorm", f"{ours}.read_image.norm")),
    ]
    for theirs, stream in (("lang", "text"), ("visn", "image")):
        rows += attention_keys(f"{cross}.{theirs}_self_att", f"{ours}.{stream}.attn")
        rows += weight_and_bias(f"{cross}.{theirs}_inter.dense", f"{ours}.{stream}.mlp.up_proj")
        rows += weight_and_bias(f"{cross}.{theirs}_output.dense", f"{ours}.{stream}.mlp.down_proj")
        rows += weight_and_bias(f"{cross}.{theirs}_output.LayerNorm", f"{ours}.{stream}.mlp_norm")
    prefix = "" if architecture == MODEL else "lxmert."
    body = KeyTable(tuple(rows)).prefixed(prefix) + BODY_KEYS.prefixed(prefix, "text.")
    body += KeyTable(tuple(weight_and_bias(f"{prefix}pooler.dense", "text_pool")))
    more: list[Row] = []
    if "answer" in heads:
        for at, part in (("0", "dense"), ("2", "norm"), ("3", "proj")):
            more += weight_and_bias(f"answer_head.logit_fc.{at}", f"heads.answer.{part}")
    if "regions" in heads:
        more += weight_and_bias("obj_predict_head.transform.dense", "heads.regions.dense")
        more += weight_and_bias("obj_predict_head.transform.LayerNorm", "heads.regions.norm")
        for name, ours in OURS.items():
            more += weight_and_bias(f"obj_predict_head.decoder_dict.{name}", f"heads.regions.proj.{ours}")
    if "words" not in heads:
        return (body + KeyTable(tuple(more)),)
    more += weight_and_bias("cls.seq_relationship", "heads.match")
    tied = isinstance(heads["words"].module, TokenHeadConfig) and heads["words"].module.tied
    embedding = "lxmert.embeddings.word_embeddings.weight" if tied else None
    words = [head_keys("cls.predictions.", embedding=embedding, bias=bias) for bias in BIASES]
    return tuple(body + KeyTable(tuple(more)) + each.prefixed(target="heads.words.") for each in words)
