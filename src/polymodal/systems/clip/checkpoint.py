"""How CLIP's checkpoints are read: both encoders, one of them, an image classifier, the official state dict.

Traps: a published config may carry `text_config_dict`, which then says everything and `text_config` nothing; files of
one encoder name it `vision_model.*` (published) or without a prefix (saved by transformers 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.data import hf_image
from polymodal.data.item_rules import SentenceIds
from polymodal.data.labels import labels_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import clip_openai, clip_text, clip_vit
from polymodal.encoders.heads import ClassLogitsConfig
from polymodal.models.dual_encoder import IMAGE_TEXT, DualEncoder
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.pipelines.zero_shot import ZeroShot
from polymodal.systems import CheckpointFiles, CheckpointFormat, ConfigMatch, LoadedModel, ModelSpec, Part, hf
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Unsqueeze

SCALE = KeyTable((rename("logit_scale", "logit_scale", Unsqueeze()),))
TEXT = ("input_ids", "attention_mask", "position_ids")
BARE = {"vision_model.": "", "visual_projection.": "visual_projection."}
BARE_TEXT = {"text_model.": "", "text_projection.": "text_projection."}
CLASSES = KeyTable.of({f"classifier.{leaf}": f"head.proj.{leaf}" for leaf in ("weight", "bias")})


def half(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """text_config or vision_config; the old `_dict` spelling wins, as in the library."""
    whole = config.get(f"{name}_config_dict")
    return whole if whole is not None else config.get(f"{name}_config") or {}


def parse_dual_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CLIPConfig dict."""
    width = config.get("projection_dim", 512)
    image = clip_vit.with_projection(clip_vit.parse_config(half(config, "vision")), width)
    text = replace(clip_text.parse_config(half(config, "text")), out_width=width)
    keys = (
        clip_vit.hf_keys(image).prefixed(target="encoders.image.")
        + clip_text.hf_keys(text).prefixed(target="encoders.text.")
        + SCALE
    )
    return ModelSpec(
        build=lambda: DualEncoder({"image": image.build(), "text": text.build()}),
        keys=(keys,), parts=drawing(image, text, width), assemble=assemble,
    )  # fmt: skip


def parse_official_config(config: Mapping[str, Any]) -> ModelSpec:
    """Arguments of the official constructor, which `infer` reads off a state dict."""
    image, text = clip_openai.image_config(config), clip_openai.text_config(config)

    def build() -> DualEncoder:
        return DualEncoder({"image": image.build(), "text": text.build()},
                           aliases={"image": "pixel_values", "text": "input_ids"})  # fmt: skip

    parts = drawing(image, text, config["embed_dim"])
    return ModelSpec(build=build, keys=(clip_openai.keys(config),), parts=parts, assemble=assemble)


def parse_vision_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CLIPVisionConfig dict: the image encoder alone, with its projection or without."""
    tower = clip_vit.parse_config(config)
    if "CLIPVisionModelWithProjection" not in (config.get("architectures") or ()):
        keys = clip_vit.hf_keys(tower).prefixed(target="encoders.image.")
        bare = clip_vit.hf_keys(tower).respelled(BARE).prefixed(target="encoders.image.")
        return ModelSpec(build=lambda: EncoderClassifier(tower.build()), keys=(bare, keys), parts=drawn_image(tower),
                         assemble=pictures_of(tower), tokenizer=False)  # fmt: skip
    joint = clip_vit.with_projection(tower, config.get("projection_dim", 512))
    keys = clip_vit.hf_keys(joint).prefixed(target="encoders.image.")
    inputs = {"image": IMAGE_TEXT["image"]}
    return ModelSpec(build=lambda: DualEncoder({"image": joint.build()}, inputs, None), keys=(keys,),
                     parts=drawn_image(joint), assemble=pictures_of(tower), tokenizer=False)  # fmt: skip


def text_model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """A CLIPTextConfig dict: the text encoder alone, with its projection or without."""
    tower = clip_text.parse_config(config)
    if "CLIPTextModelWithProjection" not in (config.get("architectures") or ()):
        keys = clip_text.hf_keys(tower).prefixed(target="encoders.text.")
        bare = clip_text.hf_keys(tower).respelled(BARE_TEXT).prefixed(target="encoders.text.")
        return ModelSpec(
            build=lambda: EncoderClassifier(tower.build(), inputs=TEXT, modality="text"),
            keys=(bare, keys),
            assemble=texts_of(tower),
        )
    joint = replace(tower, out_width=config.get("projection_dim", 512))
    keys = clip_text.hf_keys(joint).prefixed(target="encoders.text.")
    return ModelSpec(
        build=lambda: DualEncoder({"text": joint.build()}, {"text": TEXT}, None),
        keys=(keys,),
        assemble=texts_of(tower),
    )


def parse_classification_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CLIPConfig dict whose image encoder carries a classifier on the mean of its patches."""
    tower = replace(clip_vit.parse_config(half(config, "vision")), head=None)
    head = ClassLogitsConfig(width=tower.width, classes=len(labels_of(config)), pool="patches")
    keys = clip_vit.hf_keys(tower).prefixed(target="encoders.image.") + CLASSES
    return ModelSpec(
        build=lambda: EncoderClassifier(tower.build(), head.build()), keys=(keys,), parts=drawn_image(tower),
        assemble=pictures_of(tower), tokenizer=False,
    )  # fmt: skip


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Zero-shot classes and vectors from a folder with a tokenizer."""
    assert isinstance(module, DualEncoder)
    image: Any = module.encoders["image"]
    text: Any = module.encoders["text"]
    transform, words = transform_at(files, image.config.image_size), texts_at(files, text.config.positions)
    zero_shot = ZeroShot(module, transform, words["ids"])
    processor = PairProcessor(transform=transform, **words)
    return LoadedModel(model=module, processor=processor, score=zero_shot.score, embed=zero_shot.embed)


def pictures_of(tower: Any) -> Any:
    """Assembles the processor of an image encoder."""

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        return LoadedModel(model=module, processor=PairProcessor(transform=transform_at(files, tower.image_size)))

    return assemble


def texts_of(tower: Any) -> Any:
    """Assembles the processor of a text encoder."""

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        return LoadedModel(model=module, processor=PairProcessor(**texts_at(files, tower.positions)))

    return assemble


def transform_at(files: CheckpointFiles, side: int) -> Any:
    """The folder's picture transform; without settings CLIP's own at this size."""
    settings = {**hf_image.CLIP, "size": side, "crop_size": side}
    return hf_image.transform_of(files.preprocessor, settings, square=False)


def texts_at(files: CheckpointFiles, positions: int) -> dict[str, Any]:
    """The folder's tokenizer, sentence -> ids of at most `positions`, and what fills them up."""
    tokenizer = files.tokenizer()
    begin, end = tokenizer.special("<|startoftext|>"), tokenizer.special("<|endoftext|>")
    ids = SentenceIds(tokenizer, begin, end, positions)
    return {"tokenizer": tokenizer, "ids": ids, "pad": end if tokenizer.pad_id is None else tokenizer.pad_id}


def drawn_image(tower: Any) -> tuple[Part, ...]:
    side, name = tower.image_size, "ViT" if isinstance(tower, clip_vit.ViTConfig) else "ResNet"
    return (
        Part(slot="encoder", modality="image", name=f"CLIP {name}", prefix="encoders.image", tokens=tower.tokens,
             input=f"[N, 3, {side}, {side}]", output=f"[N, {tower.tokens}, {tower.width}]"),
    )  # fmt: skip


def drawing(image: Any, text: clip_text.ClipTextConfig, width: int) -> tuple[Part, ...]:
    (first,) = drawn_image(image)
    return (
        replace(first, output=f"[N, {width}]"),
        Part(slot="encoder", name="CLIP text encoder", prefix="encoders.text", input=f"[B, <= {text.positions}]",
             output=f"[B, {width}]", tokens=1),
    )  # fmt: skip


LAYOUTS = (
    CheckpointFormat(name="transformers CLIPModel", matches=hf("clip", "CLIPModel"), parse_config=parse_dual_config),
    CheckpointFormat(
        name="official CLIP state dict",
        matches=ConfigMatch(keys=("transformer_layers",)),
        parse_config=parse_official_config,
        infer=clip_openai.infer,
    ),
    CheckpointFormat(
        name="transformers CLIPVisionModel",
        parse_config=parse_vision_config,
        matches=hf("clip_vision_model", "CLIPVisionModel", "CLIPVisionModelWithProjection"),
    ),
    CheckpointFormat(
        name="transformers CLIPTextModel",
        parse_config=text_model_spec,
        matches=hf("clip_text_model", "CLIPTextModel", "CLIPTextModelWithProjection"),
    ),
    CheckpointFormat(
        name="transformers CLIPForImageClassification",
        parse_config=parse_classification_config,
        matches=hf("clip", "CLIPForImageClassification"),
    ),
)
