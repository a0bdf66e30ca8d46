"""Published checkpoints of FLAVA: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.backbones import encoder as text_encoder
from polymodal.backbones.encoder import BIASES, EMBEDDING_KEYS, pre_norm_keys
from polymodal.data.hf_image import transform_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import google_vit
from polymodal.encoders.vit import sides
from polymodal.generators import dalle_codec
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.models.multimodal_encoder import (
    MultimodalEncoderConfig,
    parse_heads,
    parse_multimodal_config,
    pretraining_keys,
)
from polymodal.pipelines.image_text_matching import FLAVA_PICTURES, PairScores, bert_ids
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
)
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze, Unsqueeze

MODEL, PRETRAINING = "FlavaModel", "FlavaForPreTraining"


def _child(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A nested config; `<name>_dict`, of the first releases, wins over it."""
    return {**(config.get(name) or {}), **(config.get(f"{name}_dict") or {})}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A FlavaConfig dict: the bare model, or with the heads and the codec of pretraining."""
    bare = (config.get("architectures") or [PRETRAINING])[0] == MODEL
    codec = dalle_codec.parse_config(_child(config, "image_codebook_config"))
    held = codec if config.get("init_codebook", True) else None
    image, text = _child(config, "image_config"), _child(config, "text_config")
    vit = google_vit.with_pooler(google_vit.parse_config(image), {})
    model = MultimodalEncoderConfig(
        image=replace(vit, mask_token=image.get("mask_token", True)),
        text=text_encoder.parse_config(text, pre_norm=True, pooler=True),
        joint=parse_multimodal_config(_child(config, "multimodal_config")),
        space=config.get("projection_dim", 768),
        heads=None if bare else parse_heads(image, text, config.get("hidden_size", 768), held),
    )
    keys: tuple[KeyTable, ...] = (keys_of(),)
    if not bare:
        body = keys_of().prefixed("flava.") + dalle_codec.hf_keys(codec).prefixed("image_codebook.", "codec.")
        keys = tuple(body + pretraining_keys(bias) for bias in reversed(BIASES))
    return ModelSpec(build=model.build, keys=keys, parts=_drawing(model), assemble=assemble)


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """classify and embed by the contrastive space, with the folder's transform and tokenizer."""
    tokenizer, transform = files.tokenizer(), transform_of(files.preprocessor, FLAVA_PICTURES)
    ids = bert_ids(tokenizer, 77)
    scores = PairScores(module, transform, ids)
    processor = PairProcessor(transform=transform, tokenizer=tokenizer, ids=ids, segments=True)
    return LoadedModel(model=module, processor=processor, score=scores.score, embed=scores.embed)


def parse_codec_config(config: Mapping[str, Any]) -> ModelSpec:
    """The codec of image tokens alone; its logits are over the vocabulary, per position."""
    codec = dalle_codec.parse_config(config)

    def build() -> EncoderClassifier:
        # Its features are logits already.
        return EncoderClassifier(codec.build(), head=nn.Identity(), inputs=("pixel_values",))

    part = Part(slot="encoder", name="DALL-E codec", prefix="encoders.image", modality="image",
                input="pixel_values [N, 3, 112, 112]", output="[N, V, 14, 14]", tokens=196)  # fmt: skip
    keys = dalle_codec.hf_keys(codec).prefixed("", "encoders.image.")
    return ModelSpec(build=build, keys=(keys,), parts=(part,))


def keys_of() -> KeyTable:
    """FlavaModel's names -> ours."""
    pairs = {"image_projection": "image_proj", "text_projection": "text_proj",
             "image_to_mm_projection": "to_joint.image", "text_to_mm_projection": "to_joint.text"}  # fmt: skip
    rows = [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in pairs.items() for leaf in ("weight", "bias")]
    rows.append(rename("logit_scale", "logit_scale", Unsqueeze()))
    rows.append(rename("multimodal_model.cls_token", "joint.class_token", Squeeze(0), Squeeze(0)))
    return (
        KeyTable(tuple(rows))
        + (google_vit.HF_BASE_KEYS + google_vit.MASK_KEYS).prefixed("image_model.", "image.")
        + (EMBEDDING_KEYS + pre_norm_keys(pooler="pooler")).prefixed("text_model.", "text.")
        + pre_norm_keys(norm="norm", pooler="pooler").prefixed("multimodal_model.", "joint.")
    )


def _drawing(model: MultimodalEncoderConfig) -> tuple[Part, ...]:
    width, count, (height, side) = model.image.width, model.image.tokens, sides(model.image.image_size)
    return (
        Part(slot="encoder", name="ViT", prefix="image", modality="image",
             input=f"pixel_values [N, 3, {height}, {side}]",
             output=f"[N, {count}, {width}]", tokens=count),
        Part(slot="encoder", name="pre-norm text encoder", prefix="text", input="input_ids [B, T]",
             output=f"[B, T, {model.text.width}]"),
        Part(slot="connector", name="linear each", prefix="to_joint", input=f"[B, L, {width}]",
             output=f"[B, L, {model.joint.width}]"),
        Part(slot="backbone", name="blocks over both", prefix="joint", input=f"[B, S + T, {model.joint.width}]",
             output=f"[B, 1 + S + T, {model.joint.width}]"),
    )  # fmt: skip


_HUB = Repository(name="facebook/flava-full", license="BSD-3-Clause")
