"""LLaVA-1.6 against transformers: pictures of several proportions, tiles, newlines, three families of text."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, Size, Tensors
from polymodal.connectors.anyres import AnyResConfig, grids_of_pinpoints
from polymodal.encoders.tiled import tiles_of
from polymodal.systems._system import Variant
from polymodal.systems.llava_1_6 import SYSTEM

IMAGE = 90
PICTURES = [(37, 81), (200, 20), (30, 30)]  # height, width


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A LlavaNextConfig of test size; `text` and `vision` are what cases vary."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3,
              "num_attention_heads": 4, "image_size": 20, "patch_size": 5, **vision}  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99, **text}  # fmt: skip
    side = vision["image_size"]
    points = [[side * down, side * across] for down, across in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    return transformers.LlavaNextConfig(vision_config=vision, text_config=text, image_token_index=IMAGE,
                                        **{"image_grid_pinpoints": points, **more})  # fmt: skip


def grid_rules(config: Any) -> AnyResConfig:
    tile = config.vision_config.image_size
    grids = grids_of_pinpoints(config.image_grid_pinpoints, tile)
    return AnyResConfig(tile=tile, side=tile // config.vision_config.patch_size, grids=grids)


def rows_of(config: Any) -> list[list[int]]:
    words = randomise.ids("words", (24,), 3, IMAGE).tolist()
    pictures = [[IMAGE] * grid_rules(config).tokens_of(*size) for size in PICTURES]
    return [
        words[:5] + pictures[0] + words[5:9],
        words[9:12] + pictures[1] + words[12:19] + pictures[2],
    ]


def inputs(config: Any) -> Tensors:
    """Two rows padded on the left, three pictures of other proportions, tiles filled up with zeros."""
    rules = grid_rules(config)
    counts = tiles_of(PICTURES, rules.tile, rules.grids)
    pixels = torch.zeros(len(PICTURES), max(counts), 3, rules.tile, rules.tile)
    for index, count in enumerate(counts):
        pixels[index, :count] = randomise.values(f"picture {index}", tuple(pixels[index, :count].shape))
    rows = rows_of(config)
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": torch.tensor(PICTURES)}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    return [
        (row, {"input_ids": torch.tensor([rows_of(config)[row]]), "pixel_values": given["pixel_values"][chosen],
               "image_sizes": given["image_sizes"][chosen]})
        for row, chosen in ((0, slice(0, 1)), (1, slice(1, 3)))
    ]  # fmt: skip


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    found = oracle.get_image_features(pixel_values=given["pixel_values"], image_sizes=given["image_sizes"])
    return {"image": list(found.pooler_output)}


def case(name: str, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> Any:
    return hugging_case(name, "LlavaNextForConditionalGeneration",
                        lambda transformers: tiny(transformers, text or {}, vision or {}, **more), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def size(variant: Variant) -> Size:
    config = variant.config or {}
    return hugging_size(variant.name, "LlavaNextForConditionalGeneration", lambda t: t.LlavaNextConfig(**config))


EVIDENCE = Evidence(
    oracle="transformers LlavaNextForConditionalGeneration",
    cases=(
        case("llama, grouped heads"),
        case("mistral with a window, other grids, joined layers, no connector bias",
             {"model_type": "mistral", "sliding_window": 9, "head_dim": 8}, {"patch_size": 10},
             image_grid_pinpoints=[[20, 40], [80, 20]], vision_feature_layer=[-2, 1], multimodal_projector_bias=False),
        case("qwen2, tied head, SigLIP with every patch", {"model_type": "qwen2", "num_hidden_layers": 1},
             {"model_type": "siglip_vision_model"}, tie_word_embeddings=True, vision_feature_layer=-1,
             vision_feature_select_strategy="full", projector_hidden_act="relu"),
        case("gemma, untied as the outer config says", {"model_type": "gemma", "head_dim": 16}),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
)  # fmt: skip
