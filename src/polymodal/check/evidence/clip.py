"""CLIP against transformers (all five of its classes) and the official code (ViT and ResNet state dicts)."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, Size, Tensors
from polymodal.systems._system import Variant
from polymodal.systems.clip import SYSTEM

VISION = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 29, "patch_size": 7, "projection_dim": 20}  # fmt: skip
TEXT = {"hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 99,
        "max_position_embeddings": 17, "eos_token_id": 98, "projection_dim": 20}  # fmt: skip
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
        image = oracle.get_image_features(pixel_values=given["pixel_values"])
        text = oracle.get_text_features(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        return {"image": image.pooler_output, "text": text.pooler_output}

    reading = Reading(logits=lambda outputs: outputs.logits_per_image, features=features)
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

    reading = Reading(logits=None, features=lambda oracle, given: {modality: getattr(oracle(**given), output)})
    return hugging_case(f"{model} alone", model, config, inputs, reading=reading)


def classes(transformers: Any) -> Any:
    return transformers.CLIPConfig(vision_config=VISION, num_labels=7)


def size(variant: Variant) -> Size:
    """ViTs as the library saves them, ResNets as the official code names them."""
    if variant.layout == 1:
        return packed_size("clip_sizes", variant.name, variant.parameters)
    return hugging_size(variant.name, "CLIPModel", lambda t: t.CLIPConfig(**(variant.config or {})))


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
)  # fmt: skip
