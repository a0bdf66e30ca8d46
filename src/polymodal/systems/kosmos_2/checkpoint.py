"""Published checkpoints of KOSMOS-2: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from polymodal.backbones import kosmos
from polymodal.connectors import latent_query
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn
from polymodal.data.transforms import Squash
from polymodal.encoders import clip_vit
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.norm import LayerNormConfig
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
)
from polymodal.systems.kosmos_2.patch_boxes import ground
from polymodal.weights.keytable import KeyTable, rename

VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu"}  # fmt: skip


MASK = "image_embeds_position_mask"


FIRST_SLOT = 4  # the ids of the slots, one after another from here, do not matter; these are the published ones


NOWHERE = -1  # no id is a placeholder


TEMPLATE = Template(
    begin=(Special(name="<s>"),),
    turns={
        "picture": Turn(before=(Special(name="<image>"),), after=(Special(name="</image>"),)),
        "user": Turn(before=(Special(name="<grounding>"),)),
        "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    },
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A Kosmos2Config dict -> the model; raises ConfigError for options that are not supported."""
    vision, text = {**VISION, **(config.get("vision_config") or {})}, config.get("text_config") or {}
    tied = bool(config.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", True))
    backbone = replace(kosmos.parse_config(text), tied=tied)
    last = LayerNormConfig(eps=vision.get("layer_norm_eps", 1e-5))
    tower = replace(clip_vit.parse_config(vision), final_norm=last, head=None)
    connector = latent_query.LatentQueryConfig(
        queries=config.get("latent_query_num", 64), heads=backbone.blocks[0].attention.heads, unit=True
    )
    prepare_inputs = kosmos.CountedPositions(padding=text.get("pad_token_id", 1))

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, backbone.width), backbone.build()
        return MultimodalLM(
            {"image": parts[0]},
            {"image": parts[1]},
            parts[2],
            {"image": NOWHERE},
            inputs={"image": ModalityInputs(values="pixel_values", placeholder_mask=MASK)},
            prepare_inputs=prepare_inputs,
        )

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        side, given = vision["image_size"], files.preprocessor
        transform = Squash(height=side, width=side, mean=tuple(given.get("image_mean") or CLIP_MEAN),
                           std=tuple(given.get("image_std") or CLIP_STD))  # fmt: skip
        image = Modality(name="image", placeholder="<image>", transform=transform,
                         tokens=SameCount(connector.queries))  # fmt: skip
        # Published as ordinary added words; what phrases and boxes are written with stays ordinary, so that it is read.
        words = files.tokenizer(control=("<image>", "</image>", "<grounding>"))
        processor = Processor(tokenizer=words, template=TEMPLATE, modalities=(image,),
                              finish=partial(marked, queries=connector.queries),
                              max_length=backbone.max_length, rewrite=picture_first)  # fmt: skip
        return LoadedModel(model=module, processor=processor, ground=ground)

    normed = (rename(f"vision_model.post_layernorm.{leaf}", f"final_norm.{leaf}") for leaf in ("weight", "bias"))
    seen = KeyTable(tuple(normed)) + clip_vit.hf_keys(tower)
    table = (
        seen.respelled({"vision_model.": "vision_model.model.", "visual": "visual"}).prefixed(target="encoders.image.")
        + latent_query.HF_KEYS.prefixed("image_to_text_projection.", "connectors.image.")
        + kosmos.hf_keys(backbone).prefixed("text_model.", "backbone.")
    )
    return ModelSpec(build=build, keys=(table,), parts=drawing(tower, connector, backbone.width), assemble=assemble)


def marked(batch: dict[str, Any], queries: int) -> dict[str, Any]:
    """The batch as published: `queries` ids of their own for each picture's places, and the mask of these places."""
    slots = batch["token_types"] == 1
    ids = FIRST_SLOT + (slots.cumsum(-1) - 1) % queries
    return {**batch, "input_ids": torch.where(slots, ids, batch["input_ids"]), MASK: slots.long()}


def picture_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Every picture in a turn of its own in front of the words."""
    pictures = tuple(Message(role="picture", parts=(part,)) for message in messages for part in message.media)
    return pictures + tuple(Message(role=message.role, parts=(Text(message.text),)) for message in messages)


def drawing(tower: clip_vit.ViTConfig, connector: latent_query.LatentQueryConfig, width: int) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"[N, {tower.tokens}, {tower.width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, every token", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="learned queries, one attention", prefix="connectors.image",
             input=seen, output=f"[N, {connector.queries}, {width}]", tokens=connector.queries),
        Part(slot="backbone", name="Magneto decoder", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
