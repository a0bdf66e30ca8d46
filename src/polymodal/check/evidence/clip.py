"""CLIP against transformers (all five of its classes) and the official code (ViT and ResNet state dicts)."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.encoder_checks import COUNT, classification_headline, contrastive_check, name_ids
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import fit, table
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.zero_shot_prompts import IMAGENET
from polymodal.systems import Contrastive, Variant
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


def headline() -> HeadlineResult:
    """A tiny CLIP is trained on eight real pictures and sentences with their names, saved as published, loaded, and
    given the names as classes: zero-shot with the 80 published sentences."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<|startoftext|>", "<|endoftext|>"], bos="<|startoftext|>", eos="<|endoftext|>")
        config, sides = tiny(size, 1), {"size": {"shortest_edge": 32}, "crop_size": 32}
        write_config(folder, config=config, preprocessor_config=sides)
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        words, names = CheckpointFiles(folder).tokenizer(), real.captions(COUNT)
        transform = transform_of(sides, CLIP, square=False)
        pixels = torch.stack([transform(picture) for picture, _ in real.pictures()[:COUNT]])

        turn = itertools.cycle(IMAGENET)

        def said(rows: list[int]) -> torch.Tensor:
            return table([[0, *words.encode(next(turn).format(names[i])), 1] for i in rows], 1)

        training = contrastive_check(
            model_spec.build(), ("pixel_values", lambda rows: pixels[rows]), ("input_ids", said)
        )
        write_weights(folder, fit(training, Contrastive(), steps=200), model_spec.keys[0])
        return classification_headline(pm.load(folder).classify)


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
)  # fmt: skip
