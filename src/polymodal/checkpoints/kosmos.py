"""Checkpoints of KOSMOS, by the names of `transformers`' KOSMOS-2: tower, learned queries, Magneto decoder.

    config -> Kosmos(tower, connector, backbone)        pictures go where a mask says, not where an id stands

Traps: where a picture goes, its slots have ids of their own that do not matter, and `image_embeds_position_mask` is 1
there; `tie_word_embeddings` unties the head only where both levels of the config say false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from polymodal.backbones import kosmos
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.record import CheckpointFiles, Part
from polymodal.connectors import latent_query
from polymodal.data.item_rules import SameCount
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template
from polymodal.data.transforms import Squash
from polymodal.encoders import clip_vit
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, rename

VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu"}  # fmt: skip
MASK = "image_embeds_position_mask"
FIRST_SLOT = 4  # the ids of the slots, one after another from here, do not matter; these are the published ones
NOWHERE = -1  # no id is a placeholder


@dataclass(frozen=True, kw_only=True)
class Kosmos:
    """The parts.  counted: positions are counted by the padding id (KOSMOS-2), None by the attention mask."""

    tower: clip_vit.ViTConfig
    connector: latent_query.LatentQueryConfig
    backbone: DecoderConfig
    counted: kosmos.CountedPositions | None = None

    def build(self) -> MultimodalLM:
        """Fresh weights."""
        return MultimodalLM(
            {"image": self.tower.build()},
            {"image": self.connector.build(self.tower.width, self.backbone.width)},
            self.backbone.build(),
            {"image": NOWHERE},
            inputs={"image": ModalityInputs(values="pixel_values", placeholder_mask=MASK)},
            prepare_inputs=self.counted,
        )

    @property
    def keys(self) -> KeyTable:
        """Names on disk -> ours."""
        normed = (rename(f"vision_model.post_layernorm.{leaf}", f"final_norm.{leaf}") for leaf in ("weight", "bias"))
        seen = KeyTable(tuple(normed)) + clip_vit.hf_keys(self.tower)
        return (
            seen.respelled({"vision_model.": "vision_model.model.", "visual": "visual"}).prefixed(
                target="encoders.image."
            )
            + latent_query.HF_KEYS.prefixed("image_to_text_projection.", "connectors.image.")
            + kosmos.hf_keys(self.backbone).prefixed("text_model.", "backbone.")
        )

    def processor(
        self, files: CheckpointFiles, template: Template, *, control: tuple[str, ...], marks: bool = False, **more: Any
    ) -> Processor:
        """marks: `<image>` and `</image>` stand around each picture, wherever it is; else the template writes them.

        control: what users cannot type.  more: of the Processor.
        """
        side: Any = self.tower.image_size
        given = files.preprocessor
        transform = Squash(height=side, width=side, mean=tuple(given.get("image_mean") or CLIP_MEAN),
                           std=tuple(given.get("image_std") or CLIP_STD))  # fmt: skip
        before, after = ((Special(name=name),) if marks else () for name in ("<image>", "</image>"))
        image = Modality(name="image", placeholder="<image>", transform=transform, before=before, after=after,
                         tokens=SameCount(self.connector.queries))  # fmt: skip
        return Processor(tokenizer=files.tokenizer(control=control), template=template, modalities=(image,),
                         finish=partial(marked, queries=self.connector.queries),
                         max_length=self.backbone.max_length, **more)  # fmt: skip

    @property
    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        tower, width, queries = self.tower, self.backbone.width, self.connector.queries
        side, seen = tower.image_size, f"[N, {tower.tokens}, {tower.width}]"
        return (
            Part(slot="encoder", modality="image", name="CLIP ViT, every token", prefix="encoders.image",
                 input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
            Part(slot="connector", modality="image", name="learned queries, one attention", prefix="connectors.image",
                 input=seen, output=f"[N, {queries}, {width}]", tokens=queries),
            Part(slot="backbone", name="Magneto decoder", prefix="backbone", input=f"[B, T, {width}]",
                 output="[B, T, V]"),
        )  # fmt: skip


def parts_of(config: Mapping[str, Any]) -> Kosmos:
    """A Kosmos2Config dict -> its parts; raises ConfigError for options that are not supported."""
    vision, text = {**VISION, **(config.get("vision_config") or {})}, config.get("text_config") or {}
    tied = bool(config.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", True))
    backbone = replace(kosmos.parse_config(text), tied=tied)
    last = LayerNormConfig(eps=vision.get("layer_norm_eps", 1e-5))
    return Kosmos(
        tower=replace(clip_vit.parse_config(vision), final_norm=last, head=None),
        connector=latent_query.LatentQueryConfig(
            queries=config.get("latent_query_num", 64), heads=backbone.blocks[0].attention.heads, unit=True
        ),
        backbone=backbone,
        counted=kosmos.CountedPositions(padding=text.get("pad_token_id", 1)),
    )


def marked(batch: dict[str, Any], queries: int) -> dict[str, Any]:
    """The batch as published: `queries` ids of their own for each picture's places, and the mask of these places."""
    slots = batch["token_types"] == 1
    ids = FIRST_SLOT + (slots.cumsum(-1) - 1) % queries
    return {**batch, "input_ids": torch.where(slots, ids, batch["input_ids"]), MASK: slots.long()}
