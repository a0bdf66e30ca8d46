"""D&R Net: sarcasm of tweets with pictures, from contrast and association of the two.

    words -> LSTM in both directions ┐ shared and private vectors -> contrast    ┐
    picture, one vector              ┘                                           ├-> logits [B, 2]
    adjective-noun pairs of the picture, which look at the words -> association  ┘

Paper: Reasoning with Multimodal Sarcastic Tweets via Modeling Cross-Modality Contrast and Semantic Association (ACL
2020).  No code, weights or sizes were published.
Trap: words that give the answer away (sarcasm, irony and their hashtags) are to be taken out of the tweets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polymodal.checkpoints.method_config import method_config
from polymodal.models.decomposition_relation import DecompositionRelationConfig
from polymodal.systems import (
    Adam,
    Budget,
    CheckpointFormat,
    Classification,
    Constant,
    DataSource,
    ModelSpec,
    Part,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.weights.keytable import KeyTable, rename


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """features: widths of text, vision and pairs; the other fields have defaults."""
    shape = method_config(DecompositionRelationConfig, config, "dr-net")
    with torch.device("meta"):
        keys = KeyTable(tuple(rename(name, name) for name in shape.build().state_dict()))
    widths, width = shape.features, shape.width
    drawing = (
        Part(slot="encoder", name="LSTM in both directions", prefix="forwards", input=f"words [B, T, {widths['text']}]",
             output=f"[B, T, {2 * shape.states}]"),
        Part(slot="connector", name="decomposition: shared and private", prefix="shared",
             input=f"words' last states, picture [B, {widths['vision']}]", output=f"contrast [B, {3 * width}]"),
        Part(slot="connector", name="relation: pairs look at words", prefix="relation",
             input=f"pairs [B, K, {widths['pairs']}], words", output=f"association [B, {width}]"),
        Part(slot="backbone", name="classifier", prefix="head1", input=f"[B, {4 * width}]",
             output=f"logits [B, {shape.classes}]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(keys,), parts=drawing)


EXAMPLE = {"model_type": "dr_net", "features": {"text": 200, "vision": 2048, "pairs": 200}}
"""An example: no width is published."""

SYSTEM = System(
    id="dr-net",
    aliases=("D&R Net", "DR-Net", "Decomposition and Relation Network"),
    year=2020,
    fusion=("method",),
    assembly="DecompositionRelation",
    inputs=("text", "image"),
    outputs=("sarcasm",),
    headline="sarcasm of a tweet and its picture, from what they share, what each has alone, and how they are related",
    reference="ACL 2020, Reasoning with Multimodal Sarcastic Tweets",
    formats=(
        CheckpointFormat(name="own names (nothing was published)", matches=hf("dr_net"), parse_config=parse_config),
    ),
    variants=(Variant(name="example", parameters=1_104_002, config=EXAMPLE),),
    recipe=(
        Stage(
            name="train",
            data=(DataSource(name="Twitter sarcasm of Cai et al. 2019", kind="labelled sequences"),),
            objective=Classification(),
            train=("*",),
            optimizer=Adam(lr=None),
            schedule=Constant(),
            budget=Budget(),
            start="scratch",
            note="rates, sizes and steps were not published",
        ),
    ),
)
