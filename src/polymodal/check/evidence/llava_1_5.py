"""LLaVA-1.5 against transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check import library, randomise
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.llava import Layout as OfficialLayout
from polymodal.check.evidence.llava import case as official_case
from polymodal.check.evidence.llava import official_headline
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems import Variant
from polymodal.systems.llava_1_5 import SYSTEM

IMAGE = 90


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A LlavaConfig of test size; two rows of text_config and vision_config are what cases vary."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3,
              "num_attention_heads": 4, "image_size": 28, "patch_size": 7, **vision}  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99, **text}  # fmt: skip
    return transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, **more)


def inputs(config: Any) -> Tensors:
    """Two rows of unequal length padded on the left: one picture between texts; two pictures, the last at the end."""
    side = config.vision_config.image_size
    count = (side // config.vision_config.patch_size) ** 2
    if config.vision_config.model_type == "clip_vision_model":
        count += 1  # the class token
    count -= config.vision_feature_select_strategy == "default"
    words = randomise.ids("words", (24,), 3, IMAGE).tolist()
    picture = [IMAGE] * count
    rows = [words[:5] + picture + words[5:9], words[9:12] + picture + words[12:19] + picture]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": randomise.values("pixels", (3, 3, side, side))}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    rows = []
    for row, pictures in ((0, slice(0, 1)), (1, slice(1, 3))):
        ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
        rows.append((row, {"input_ids": ids, "pixel_values": given["pixel_values"][pictures]}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    return {"image": list(library.features(oracle, "image", pixel_values=given["pixel_values"]))}


def case(name: str, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> Any:
    return hugging_case(name, "LlavaForConditionalGeneration",
                        lambda transformers: tiny(transformers, text or {}, vision or {}, **more), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def size(variant: Variant) -> Size:
    config = variant.config or {}
    return hugging_size(variant.name, "LlavaForConditionalGeneration", lambda t: t.LlavaConfig(**config))


def small(vocabulary: int, image: int, layers: int = 2) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 16 tokens a picture of 56 x 56."""
    return {
        "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": image,
        "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
                          "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
        "text_config": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
                        "num_hidden_layers": layers, "num_attention_heads": 4, "vocab_size": vocabulary},
    }  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; both stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 31)).build()
    return caption_check(model, [31] * 16 + [32], side=56)


def headline() -> HeadlineResult:
    """A tiny LLaVA is trained on eight real pictures and asked about each by `chat`, from its published folder."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        specials = ["<s>", "</s>", "<image>"]
        size = byte_tokenizer(folder, specials, bos="<s>", eos="</s>", pad="</s>")
        config = small(size, 2)
        sides = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=80,
                       preprocessor_config=sides, generation_config={"eos_token_id": 1})  # fmt: skip
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them "
        "(published weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers LlavaForConditionalGeneration",
    cases=(
        case("grouped heads"),
        case("one layer, untied, every token of the last layer", {"num_hidden_layers": 1},
             vision_feature_layer=-1, vision_feature_select_strategy="full"),
        case("one key head, other patches, no connector bias", {"num_key_value_heads": 1, "hidden_size": 48},
             {"patch_size": 14, "hidden_act": "gelu"}, multimodal_projector_bias=False),
        case("SigLIP without its first patch, qwen2, several layers joined", {"model_type": "qwen2"},
             {"model_type": "siglip_vision_model"}, vision_feature_layer=[-2, -1, 0], projector_hidden_act="relu"),
        case("SigLIP with every patch, gemma", {"model_type": "gemma", "head_dim": 12},
             {"model_type": "siglip_vision_model", "num_channels": 3}, vision_feature_select_strategy="full"),
        case("mistral with a window, first layer", {"model_type": "mistral", "sliding_window": 8},
             vision_feature_layer=1),
        case("head tied by the outer config, biases everywhere", {"attention_bias": True, "mlp_bias": True},
             tie_word_embeddings=True),
        official_case("official names, two linears", depth=2),
        official_case("official names, three linears, tower inside", OfficialLayout(inside=True), depth=3),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
    training_checks={"align": training_check, "instruct": training_check, "instruct-lora": training_check},
    headline=headline,
    layouts={SYSTEM.formats[1].name: lambda: official_headline(SYSTEM.formats[1], mm_projector_type="mlp2x_gelu")},
)  # fmt: skip
