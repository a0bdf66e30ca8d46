"""CLIP against transformers (all five of its classes) and the official code (ViT and ResNet state dicts)."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymodal.check import library, randomise, real
from polymodal.check.demo import Checkpoint, byte_tokenizer, write_config
from polymodal.check.encoder_checks import (
    BARE,
    COUNT,
    classes_headline,
    classification_headline,
    contrastive_check,
    name_ids,
)
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import learned, table
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.zero_shot_prompts import IMAGENET
from polymodal.systems import Contrastive, Variant
from polymodal.systems.clip import SYSTEM

VISION = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 29, "patch_size": 7, "projection_dim": 20}  # fmt: skip
TEXT = {"hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 99,
        "max_position_embeddings": 17, "eos_token_id": 98, "projection_dim": 20}  # fmt: skip
START, END = "<|startoftext|>", "<|endoftext|>"  # the end is the highest id, by which official code finds it
ODD = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}


def words() -> Tensors:
    """Rows of unequal length padded on the right; the last has a second end token."""
    ids = torch.tensor([[97, 5, 6, 7, 98, 98], [97, 8, 98, 98, 98, 98], [97, 9, 98, 5, 98, 4]])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5 + [0], [1] * 3 + [0] * 3, [1] * 6])}


def pixels(vision: Any, count: int = 2) -> Tensors:
    side = vision.image_size
    return {"pixel_values": randomise.values("pixels", (count, vision.num_channels, side, side))}


def pair(name: str, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any) -> Case:
    def config(transformers: Any) -> Any:
        return transformers.CLIPConfig(vision_config={**VISION, **(vision or {})}, text_config={**TEXT, **(text or {})},
                                       **{"projection_dim": 20, **more})  # fmt: skip

    def inputs(settings: Any) -> Tensors:
        return {**words(), **pixels(settings.vision_config)}

    def features(oracle: Any, given: Tensors) -> dict[str, Any]:
        text = {name: given[name] for name in ("input_ids", "attention_mask")}
        return {"image": library.features(oracle, "image", pixel_values=given["pixel_values"]),
                "text": library.features(oracle, "text", **text)}  # fmt: skip

    reading = Reading(logits=library.field("logits_per_image"), features=features)
    return hugging_case(name, "CLIPModel", config, inputs, reading=reading)


def half(model: str, output: str, **changes: Any) -> Case:
    """One encoder alone: its vector in the joint space, or its last hidden state."""
    modality = "image" if "Vision" in model else "text"

    def config(transformers: Any) -> Any:
        if modality == "image":
            return transformers.CLIPVisionConfig(**{**VISION, **changes})
        return transformers.CLIPTextConfig(**{**TEXT, **changes})

    def inputs(settings: Any) -> Tensors:
        return pixels(settings) if modality == "image" else {"input_ids": words()["input_ids"]}

    read = library.field(output)
    reading = Reading(logits=None, features=lambda oracle, given: {modality: read(oracle, given)})
    return hugging_case(f"{model} alone", model, config, inputs, reading=reading)


def classes(transformers: Any) -> Any:
    return transformers.CLIPConfig(vision_config=VISION, num_labels=7)


def size(variant: Variant) -> Size:
    """ViTs as the library saves them, ResNets as the official code names them."""
    if variant.format == 1:
        return packed_size("clip_sizes", variant.name, variant.parameters)
    return hugging_size(variant.name, "CLIPModel", lambda t: t.CLIPConfig(**(variant.config or {})))


def tiny(vocabulary: int, end: int) -> dict[str, Any]:
    vision = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    text = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
            "vocab_size": vocabulary, "eos_token_id": end, "max_position_embeddings": 77}  # fmt: skip
    return {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 32, "vision_config": vision,
            "text_config": text}  # fmt: skip


def training_check() -> TrainingCheck:
    """Real pictures and the letters of their names."""
    torch.manual_seed(0)
    pixels = real.pixels(32)
    model = SYSTEM.formats[0].model_spec(tiny(40, 2)).build()
    return contrastive_check(model, ("pixel_values", lambda rows: pixels[rows]), ("input_ids", name_ids(1, 2, 3)))


def named_pictures(checkpoint: Callable[[int], Checkpoint]) -> HeadlineResult:
    """A tiny CLIP is trained on eight real pictures and sentences with their names, saved as published, loaded, and
    given the names as classes: zero-shot with the 80 published sentences.

    checkpoint(vocabulary size) -> the layout.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, {START: 256, END: 257}, bos=START, eos=END)
        sides = {"size": {"shortest_edge": 32}, "crop_size": 32}
        write_config(folder, preprocessor_config=sides)
        words, names = CheckpointFiles(folder).tokenizer(), real.captions(COUNT)
        transform = transform_of(sides, CLIP, square=False)
        pixels = torch.stack([transform(picture) for picture, _ in real.pictures()[:COUNT]])

        turn = itertools.cycle(IMAGENET)

        def said(rows: list[int]) -> torch.Tensor:
            next(turn)  # nine a step, so that every name is told in all 80 sentences
            return table([[256, *words.encode(next(turn).format(names[i])), 257] for i in rows], 257)

        def trained(module: nn.Module) -> nn.Module:
            pairs = contrastive_check(module, ("pixel_values", lambda rows: pixels[rows]), ("input_ids", said), lr=1e-3)
            return learned(pairs, Contrastive(), steps=200)

        return classification_headline(checkpoint(size).stored(folder, trained).classify)


def headline() -> HeadlineResult:
    """`named_pictures` in the library's layout."""

    def checkpoint(size: int) -> Checkpoint:
        config = tiny(size, 257)
        return Checkpoint(format=SYSTEM.formats[0], config=config, file="model.safetensors", written=config)

    return named_pictures(checkpoint)


def official_headline() -> HeadlineResult:
    """`named_pictures` in an official state dict, which says its sizes by its shapes; heads of 64."""

    def checkpoint(size: int) -> Checkpoint:
        config = {"embed_dim": 32, "context_length": 77, "vocab_size": size, "transformer_width": 64,
                  "transformer_heads": 1, "transformer_layers": 2, "image_resolution": 32, "vision_layers": 2,
                  "vision_width": 64, "vision_patch_size": 8}  # fmt: skip
        return Checkpoint(format=SYSTEM.formats[1], config=config, file="ViT-tiny.pt")

    return named_pictures(checkpoint)


def classes_config() -> dict[str, Any]:
    return {**tiny(40, 2), "architectures": ["CLIPForImageClassification"],
            "id2label": {str(i): name for i, name in enumerate(real.captions(COUNT))}}  # fmt: skip


def classifier_headline() -> HeadlineResult:
    """The image encoder with a classifier."""
    config = classes_config()
    checkpoint = Checkpoint(format=SYSTEM.formats[4], config=config, file="model.safetensors", written=config)
    return classes_headline(checkpoint, 32)


EVIDENCE = Evidence(
    oracle=f"transformers CLIPModel; {fixture_source('clip_vit')}",
    cases=(
        pair("end token by its id"),
        pair("end token as the highest id, as published", text={"eos_token_id": 2}),
        pair("one layer, one head, other activation and eps, four channels", {**ODD, "num_channels": 4}, ODD,
             projection_dim=33),
        half("CLIPVisionModel", "last_hidden_state"),
        half("CLIPVisionModelWithProjection", "image_embeds", patch_size=14),
        half("CLIPTextModel", "last_hidden_state", hidden_act="gelu"),
        half("CLIPTextModelWithProjection", "text_embeds", eos_token_id=2),
        hugging_case("CLIPForImageClassification", "CLIPForImageClassification", classes,
                     lambda settings: pixels(settings.vision_config)),
        fixture_case("official state dict, ViT", "clip_vit"),
        fixture_case("official state dict, ResNet", "clip_rn"),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"contrastive": training_check, "larger-pictures": training_check},
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: official_headline,
        SYSTEM.formats[2].name: BARE,
        SYSTEM.formats[3].name: BARE,
        SYSTEM.formats[4].name: classifier_headline,
    },
)  # fmt: skip
