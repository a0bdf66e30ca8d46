"""BEiT: a ViT that learns by naming the visual words of patches it cannot see.

Paper: BEiT: BERT Pre-Training of Image Transformers (arXiv 2106.08254).

    picture -> patches, some replaced by the mask token -> ViT with relative position bias -> norm -> linear
            -> one of 8192 visual words a masked patch;   fine-tuned: mean of the patches -> norm -> linear -> classes

Traps: the hub's `microsoft/beit-base-patch16-224` is the classifier, not the masked model; pretraining shares one table
of positions, fine-tuning has one a block; the class token's norm is left out where the mean of the patches is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from polymodal.data import hf_image
from polymodal.data.labels import labels_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import beit_keys
from polymodal.encoders.beit import BeitConfig
from polymodal.encoders.heads import ClassLogitsConfig, PatchLogitsConfig
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.nn.norm import LayerNormConfig
from polymodal.pipelines.classification import scorer
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.beit import official
from polymodal.systems.beit.recipe import RECIPE
from polymodal.weights.keytable import KeyTable


def pairs(names: Mapping[str, str | None]) -> KeyTable:
    """Weight and bias of each; None drops both."""
    return KeyTable.of({f"{a}.{leaf}": None if b is None else f"{b}.{leaf}"
                        for a, b in names.items() for leaf in ("weight", "bias")})  # fmt: skip


def norm_of(config: Mapping[str, Any]) -> LayerNormConfig:
    return LayerNormConfig(eps=config.get("layer_norm_eps", 1e-12))


def model_spec(tower: BeitConfig, head: Any, rows: KeyTable, prefix: str = "beit.") -> ModelSpec:
    """An encoder whose names begin with `prefix` and a head on it."""

    def build() -> EncoderClassifier:
        return EncoderClassifier(tower.build(), None if head is None else head.build())

    (height, width), body = tower.grid, beit_keys.HF_KEYS.prefixed(prefix, "encoders.image.")
    part = Part(slot="encoder", modality="image", name="BEiT", prefix="encoders.image", tokens=tower.tokens,
                input=f"[N, {tower.channels}, H, W]", output=f"[N, 1 + {height} x {width}, {tower.width}]")  # fmt: skip
    table = body + rows
    return ModelSpec(build=build, keys=(table,), in_memory=table.reworded(beit_keys.IN_MEMORY), parts=(part,))


def bare(tower: BeitConfig, module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """The model with what makes tensors of pictures."""
    transform = hf_image.transform_of(files.preprocessor, {**hf_image.BEIT, "size": tower.image_size})
    return LoadedModel(model=module, processor=PairProcessor(transform=transform))


def parse_bare_config(config: Mapping[str, Any]) -> ModelSpec:
    """BeitModel; its pooler's norm is not part of the features."""
    found = model_spec(beit_keys.parse_config(config), None, pairs({"pooler.layernorm": None}), "")
    longer = model_spec(beit_keys.parse_config(config), None, pairs({"beit.pooler.layernorm": None}))
    return replace(found, keys=found.keys + longer.keys)


def parse_masked_config(config: Mapping[str, Any]) -> ModelSpec:
    """BeitForMaskedImageModeling."""
    tower = beit_keys.parse_config(config)
    head = PatchLogitsConfig(width=tower.width, codes=config.get("vocab_size", 8192), norm=norm_of(config))
    found = model_spec(tower, head, pairs({"layernorm": "head.norm", "lm_head": "head.proj"}))
    return replace(found, assemble=partial(bare, tower), tokenizer=False)


def parse_classification_config(config: Mapping[str, Any]) -> ModelSpec:
    """BeitForImageClassification."""
    tower, labels, mean = beit_keys.parse_config(config), labels_of(config), config.get("use_mean_pooling", True)
    head = ClassLogitsConfig(width=tower.width, classes=len(labels), pool="patches" if mean else "class",
                             norm=norm_of(config) if mean else None)  # fmt: skip
    found = model_spec(tower, head, pairs({"beit.pooler.layernorm": "head.norm", "classifier": "head.proj"}))

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        loaded = bare(tower, module, files)
        return replace(loaded, score=scorer(module, loaded.processor.pixels, labels), labels=labels)

    return replace(found, assemble=assemble, tokenizer=False)


def published(name: str, parameters: int, kind: str, classes: int, side: int = 224) -> Variant:
    """A checkpoint of Microsoft's on the hub; classes 0: the masked model, with its shared table and mask token."""
    large = name.startswith("large")
    config = {"model_type": "beit", "hidden_size": 1024 if large else 768, "num_hidden_layers": 24 if large else 12,
              "num_attention_heads": 16 if large else 12, "intermediate_size": 4096 if large else 3072,
              "image_size": side, "layer_scale_init_value": 1e-5 if large else 0.1, "num_labels": classes,
              "use_mask_token": not classes, "use_shared_relative_position_bias": not classes,
              "use_relative_position_bias": bool(classes)}  # fmt: skip
    model = "BeitForImageClassification" if classes else "BeitForMaskedImageModeling"
    return Variant(name=name, parameters=parameters, config={**config, "architectures": [model]},
                   format=0 if classes else 1,
                   repository=Repository(name=f"microsoft/beit-{kind}", license="Apache-2.0"))  # fmt: skip


SYSTEM = System(
    id="beit",
    aliases=("BEiT", "BEiT v1", "BEiT (v1)"),
    year=2021,
    fusion=(),
    assembly="EncoderClassifier",
    inputs=("image",),
    outputs=("visual words", "classes"),
    formats=(
        CheckpointFormat(name="transformers BeitForImageClassification", parse_config=parse_classification_config,
               matches=hf("beit", "BeitForImageClassification")),
        CheckpointFormat(name="transformers BeitForMaskedImageModeling", parse_config=parse_masked_config,
               matches=hf("beit", "BeitForMaskedImageModeling")),
        CheckpointFormat(name="transformers BeitModel", parse_config=parse_bare_config,
               matches=hf("beit", "BeitModel")),
        official.LAYOUT,
    ),
    variants=(
        published("base-pt22k", 91_965_776, "base-patch16-224-pt22k", 0),
        published("large-pt22k", 311_534_016, "large-patch16-224-pt22k", 0),
        published("base", 86_530_984, "base-patch16-224", 1000),
        published("base-384", 86_744_104, "base-patch16-384", 1000, 384),
        published("large", 304_430_568, "large-patch16-224", 1000),
        published("large-384", 304_998_888, "large-patch16-384", 1000, 384),
        published("large-512", 305_674_728, "large-patch16-512", 1000, 512),
        published("base-ft22k", 102_557_713, "base-patch16-224-pt22k-ft22k", 21841),
    ),
    headline="predicts the visual words of masked patches, and by that learns to classify",
    reference="arXiv 2106.08254",
    recipe=RECIPE,
)  # fmt: skip
