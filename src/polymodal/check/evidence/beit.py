"""BEiT against transformers, in its three classes."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, Size, Tensors
from polymodal.systems._system import Variant
from polymodal.systems.beit import SYSTEM

SMALL = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "image_size": 21,
         "patch_size": 5, "vocab_size": 30}  # fmt: skip
MASKED = "BeitForMaskedImageModeling"


def case(name: str, model: str = "BeitForImageClassification", larger: bool = False, **changes: Any) -> Case:
    def config(transformers: Any) -> Any:
        return transformers.BeitConfig(**{**SMALL, **changes})

    def inputs(settings: Any) -> Tensors:
        size = settings.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if larger:
            height, width = height + 2 * settings.patch_size, width + settings.patch_size
        given: Tensors = {"pixel_values": randomise.values("pixels", (3, settings.num_channels, height, width))}
        if settings.use_mask_token:
            given["bool_masked_pos"] = (torch.arange(48) % 3 == 0).reshape(3, 16)
        return given

    def features(oracle: Any, given: Tensors) -> dict[str, Any]:
        return {"image": getattr(oracle, "beit", oracle)(**given).last_hidden_state}

    reading = Reading(logits=None if model == "BeitModel" else lambda outputs: outputs.logits, features=features)
    return hugging_case(name, model, config, inputs, reading=reading)


def size(variant: Variant) -> Size:
    settings = dict(variant.config or {})
    return hugging_size(variant.name, settings["architectures"][0], lambda t: t.BeitConfig(**settings))


EVIDENCE = Evidence(
    oracle="transformers BeitForMaskedImageModeling, BeitForImageClassification, BeitModel",
    cases=(
        case("masked model, one table for all blocks", MASKED, use_mask_token=True, use_mean_pooling=False,
             use_shared_relative_position_bias=True),
        case("masked model, mean pooling, a table a block", MASKED, use_mask_token=True,
             use_relative_position_bias=True, layer_norm_eps=1e-3),
        case("classifier, a table a block", use_relative_position_bias=True, num_labels=5),
        case("classifier, larger pictures", larger=True, use_relative_position_bias=True,
             use_absolute_position_embeddings=True),
        case("classifier on the class token, both kinds of table, no layer scale", use_relative_position_bias=True,
             use_shared_relative_position_bias=True, use_mean_pooling=False, layer_scale_init_value=0.0),
        case("one layer, two channels, other activation, no tables", num_hidden_layers=1, num_channels=2,
             hidden_act="relu", num_labels=0),
        case("encoder, rectangle", "BeitModel", image_size=(15, 25), use_relative_position_bias=True),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
)  # fmt: skip
