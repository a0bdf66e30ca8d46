"""The official files of ALBEF and BLIP (salesforce/ALBEF, salesforce/BLIP): their names, and sizes read off shapes.

    visual_encoder.* (timm)  text_encoder.* (BERT)  text_decoder.{bert,cls}.*  vision_proj text_proj itm_head temp

Momentum copies (`*_m`) and feature queues are dropped by name: they belong to a run, not to the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.backbones.encoder import BODY_KEYS, head_keys
from polymodal.encoders.timm_vit import TIMM_KEYS
from polymodal.weights.keytable import KeyTable, drop, rename

Shapes = Mapping[str, Sequence[int]]

MATCH_KEYS = KeyTable(
    tuple(
        rename(f"{source}.{leaf}", f"{target}.{leaf}")
        for source, target in (("vision_proj", "image_proj"), ("text_proj", "text_proj"), ("itm_head", "match"))
        for leaf in ("weight", "bias")
    )
)
"""Joint projections and match head, alike in the official files and the library's."""

CLASS_KEYS = KeyTable(
    tuple(rename(f"cls_head.{i}.{leaf}", f"head.{i}.{leaf}") for i in (0, 2) for leaf in ("weight", "bias"))
)
"""The two-layer class head of NLVR2 and SNLI-VE."""

MOMENTUM = ("visual_encoder_m", "text_encoder_m", "text_decoder_m", "vision_proj_m", "text_proj_m", "cls_head_m")
QUEUES = ("image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue")
RUN_KEYS = KeyTable((*(drop(f"{name}.**") for name in MOMENTUM), *(drop(name) for name in QUEUES)))
"""What a training run leaves in a file."""

IMAGE_KEYS = TIMM_KEYS.prefixed("visual_encoder.", "image.")


def writer_keys(*, tied: bool, question: bool, bias: str) -> KeyTable:
    """A text decoder with its head, and the encoder of questions, alike in both layouts; bias: as for `head_keys`."""
    keys = BODY_KEYS.prefixed("text_decoder.bert.", "decoder.")
    words = "text_decoder.bert.embeddings.word_embeddings.weight" if tied else None
    keys += head_keys("text_decoder.cls.predictions.", embedding=words, bias=bias).prefixed(target="head.")
    return keys + BODY_KEYS.prefixed("text_encoder.", "question.") if question else keys


def vision_of(shapes: Shapes) -> dict[str, Any]:
    """A BlipVisionConfig dict from the shapes of `visual_encoder.*`; heads of 64, as published."""
    width, _, patch, _ = shapes["visual_encoder.patch_embed.proj.weight"]
    grid = round((shapes["visual_encoder.pos_embed"][1] - 1) ** 0.5)
    return {
        "hidden_size": width,
        "num_hidden_layers": count(shapes, r"visual_encoder\.blocks\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes["visual_encoder.blocks.0.mlp.fc1.weight"][0],
        "image_size": grid * patch,
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }


def text_of(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """A BERT-like config dict from the shapes of `<prefix>.*`; heads of 64, as published."""
    vocab, width = shapes[f"{prefix}.embeddings.word_embeddings.weight"]
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": count(shapes, re.escape(prefix) + r"\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes[f"{prefix}.encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes[f"{prefix}.embeddings.position_embeddings.weight"][0],
        "layer_norm_eps": 1e-12,
    }


def count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest index that `pattern` finds at the start of a name."""
    return max(indices(shapes, pattern), default=-1) + 1


def indices(shapes: Shapes, pattern: str) -> set[int]:
    """All indices that `pattern` finds at the start of a name."""
    return {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
