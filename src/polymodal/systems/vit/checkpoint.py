"""Published checkpoints of ViT: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.data import hf_image
from polymodal.data.labels import labels_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import google_vit
from polymodal.encoders.heads import ClassLogitsConfig, PatchPixelsConfig
from polymodal.encoders.vit import ViTConfig, sides
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.pipelines.classification import scorer
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)
from polymodal.weights.keytable import KeyTable

BODY = google_vit.HF_BASE_KEYS + google_vit.MASK_KEYS


CLASSES = KeyTable.of({f"classifier.{leaf}": f"head.proj.{leaf}" for leaf in ("weight", "bias")})


PIXELS = KeyTable.of({f"decoder.0.{leaf}": f"head.proj.{leaf}" for leaf in ("weight", "bias")})


POOLER = KeyTable(new=("encoders.image.head.dense.weight", "encoders.image.head.dense.bias"))


def model_spec(tower: ViTConfig, head: Any, rows: KeyTable, prefix: str, *, labels: tuple[str, ...] = ()) -> ModelSpec:
    """An encoder whose names begin with `prefix` and a head on it."""

    def build() -> EncoderClassifier:
        return EncoderClassifier(tower.build(), None if head is None else head.build())

    body = BODY.prefixed(prefix, "encoders.image.") + rows
    keys: tuple[KeyTable, ...] = (body,)
    if tower.head is not None:  # the bare model: with or without its pooler, bare names or those of a checkpoint
        longer = BODY.prefixed("vit.", "encoders.image.")
        keys = (body, longer, body + POOLER, longer + POOLER)
    height, width = tower.grid_sides
    part = Part(slot="encoder", modality="image", name="ViT", prefix="encoders.image", tokens=tower.tokens,
                input=f"[N, {tower.channels}, H, W]", output=f"[N, 1 + {height} x {width}, {tower.width}]")  # fmt: skip
    joined = classifier(tower, labels) if labels else None
    return ModelSpec(build=build, keys=keys, in_memory=body.reworded(google_vit.IN_MEMORY), parts=(part,),
                     assemble=joined, tokenizer=False)  # fmt: skip


def classifier(tower: ViTConfig, labels: tuple[str, ...]) -> Any:
    """Classes of a picture among those the model was trained on."""

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        transform = hf_image.transform_of(files.preprocessor, {**hf_image.VIT, "size": sides(tower.image_size)})
        return LoadedModel(
            model=module,
            processor=PairProcessor(transform=transform),
            score=scorer(module, transform, labels),
            labels=labels,
        )

    return assemble


def parse_bare_config(config: Mapping[str, Any]) -> ModelSpec:
    """ViTModel, with its pooler."""
    return model_spec(google_vit.with_pooler(google_vit.parse_config(config), config), None, KeyTable(), "")


def parse_classification_config(config: Mapping[str, Any]) -> ModelSpec:
    """ViTForImageClassification."""
    tower, labels = google_vit.parse_config(config), labels_of(config)
    return model_spec(tower, ClassLogitsConfig(width=tower.width, classes=len(labels)), CLASSES, "vit.", labels=labels)


def parse_pixels_config(config: Mapping[str, Any]) -> ModelSpec:
    """ViTForMaskedImageModeling."""
    tower = replace(google_vit.parse_config(config), mask_token=True)
    head = PatchPixelsConfig(width=tower.width, stride=config.get("encoder_stride", 16), channels=tower.channels)
    return model_spec(tower, head, PIXELS, "vit.")


def parse_jax_model(config: Mapping[str, Any]) -> ModelSpec:
    """Official .npz files, by what `google_vit.infer` reads off them."""
    tower = google_vit.parse_jax_config(config)
    keys = google_vit.jax_keys(tower).prefixed(target="encoders.image.")
    return ModelSpec(build=lambda: EncoderClassifier(tower.build()), keys=(keys,))


def published(name: str, parameters: int, width: int, depth: int, heads: int, patch: int, side: int = 224,
              classes: int = 1000) -> Variant:  # fmt: skip
    """A checkpoint of Google's on the hub; classes 0: the encoder pretrained on ImageNet-21k, with its pooler."""
    kind = "ViTForImageClassification" if classes else "ViTModel"
    config = {"model_type": "vit", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
              "intermediate_size": 4 * width, "patch_size": patch, "image_size": side, "layer_norm_eps": 1e-12,
              "architectures": [kind], "num_labels": classes}  # fmt: skip
    size = {768: "base", 1024: "large", 1280: "huge"}[width]
    hub = f"google/vit-{size}-patch{patch}-{side}{'' if classes else '-in21k'}"
    return Variant(name=name, parameters=parameters, config=config, format=0 if classes else 1,
                   repository=Repository(name=hub, license="Apache-2.0"))  # fmt: skip
