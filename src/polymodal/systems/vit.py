"""ViT: a picture as 16 x 16 words for a plain transformer encoder.

Paper: An Image is Worth 16x16 Words (arXiv 2010.11929); sizes Ti and S from AugReg (arXiv 2106.10270).

    picture -> squashed to 224 x 224, -1..1 -> patches + class token -> blocks -> norm -> class token -> linear

Traps: files of the hub hold old names; norms have eps 1e-12 there and 1e-6 in the official .npz files, whose GELU is
the tanh form; only the ImageNet-21k originals have a dense layer before the classes (the hub's pooler); a folder of
the bare model may lack that pooler, which is then left as it starts, because features do not pass it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.data import hf_image
from polymodal.data.labels import labels_of
from polymodal.encoders import google_vit
from polymodal.encoders.heads import ClassLogitsConfig, PatchPixelsConfig
from polymodal.encoders.vit import ViTConfig, sides
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.pipelines.classification import scorer
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
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
    return ModelSpec(build=build, keys=keys, parts=(part,), assemble=joined, tokenizer=False)


def classifier(tower: ViTConfig, labels: tuple[str, ...]) -> Any:
    """Classes of a picture among those the model was trained on."""

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        transform = hf_image.transform_of(files.preprocessor, {**hf_image.VIT, "size": sides(tower.image_size)})
        return LoadedModel(model=module, processor=None, score=scorer(module, transform, labels))

    return assemble


def open_bare(config: Mapping[str, Any]) -> ModelSpec:
    """ViTModel, with its pooler."""
    return model_spec(google_vit.with_pooler(google_vit.of_config(config), config), None, KeyTable(), "")


def open_classes(config: Mapping[str, Any]) -> ModelSpec:
    """ViTForImageClassification."""
    tower, labels = google_vit.of_config(config), labels_of(config)
    return model_spec(tower, ClassLogitsConfig(width=tower.width, classes=len(labels)), CLASSES, "vit.", labels=labels)


def open_pixels(config: Mapping[str, Any]) -> ModelSpec:
    """ViTForMaskedImageModeling."""
    tower = replace(google_vit.of_config(config), mask_token=True)
    head = PatchPixelsConfig(width=tower.width, stride=config.get("encoder_stride", 16), channels=tower.channels)
    return model_spec(tower, head, PIXELS, "vit.")


def open_jax(config: Mapping[str, Any]) -> ModelSpec:
    """Official .npz files, by what `google_vit.infer` reads off them."""
    tower = google_vit.of_jax(config)
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
    place = f"google/vit-{size}-patch{patch}-{side}{'' if classes else '-in21k'}"
    return Variant(name=name, parameters=parameters, config=config, format=0 if classes else 1,
                   repository=Repository(name=place, license="Apache-2.0"))  # fmt: skip


SYSTEM = System(
    id="vit",
    aliases=("ViT", "Vision Transformer", "Vision Transformer (ViT)"),
    year=2020,
    fusion=(),
    assembly="EncoderClassifier",
    inputs=("image",),
    outputs=("classes", "features"),
    formats=(
        CheckpointFormat(
            name="transformers ViTForImageClassification",
            parse_config=open_classes,
            matches=hf("vit", "ViTForImageClassification"),
        ),
        CheckpointFormat(name="transformers ViTModel", parse_config=open_bare, matches=hf("vit", "ViTModel")),
        CheckpointFormat(
            name="transformers ViTForMaskedImageModeling",
            parse_config=open_pixels,
            matches=hf("vit", "ViTForMaskedImageModeling"),
        ),
        CheckpointFormat(
            name="official ViT .npz",
            parse_config=open_jax,
            matches=lambda config: config.get("model_type") == "vit_jax",
            infer=google_vit.infer,
        ),
    ),
    variants=(
        published("b-16", 86_567_656, 768, 12, 12, 16),
        published("b-16-384", 86_859_496, 768, 12, 12, 16, 384),
        published("b-32-384", 88_297_192, 768, 12, 12, 32, 384),
        published("l-16", 304_326_632, 1024, 24, 16, 16),
        published("l-16-384", 304_715_752, 1024, 24, 16, 16, 384),
        published("l-32-384", 306_632_680, 1024, 24, 16, 32, 384),
        published("b-16-in21k", 86_389_248, 768, 12, 12, 16, classes=0),
        published("l-16-in21k", 304_351_232, 1024, 24, 16, 16, classes=0),
        published("h-14-in21k", 632_404_480, 1280, 32, 16, 14, classes=0),
    ),
    headline="classifies pictures with a plain transformer over patches; the encoder most later systems reuse",
    reference="arXiv 2010.11929",
    recipe=(
        Stage(
            name="pretrain",
            data="ImageNet-21k: 14 million pictures, 21843 classes",
            objective="classes",
            train=("encoders.image", "head"),
            lr=1e-3,
            batch=4096,
            steps=311_000,
            warmup=10_000,
            weight_decay=0.03,
            betas=(0.9, 0.999),
        ),
        Stage(
            name="fine-tune",
            data="ImageNet-1k at 384 pixels",
            objective="classes",
            train=("encoders.image", "head"),
            lr=3e-2,
            batch=512,
            steps=20_000,
            warmup=500,
        ),
    ),
)
