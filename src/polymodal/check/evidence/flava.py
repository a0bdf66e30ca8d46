"""FLAVA against transformers: the three encoders, their projections, the contrastive logits and the codec.

The pretraining heads are compared in tests/assemblies/test_joint_encoder.py: one forward gives several logits.
"""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, Size, Tensors
from polymodal.systems._system import Variant
from polymodal.systems.flava import MODEL, PRETRAINING, SYSTEM

Settings = dict[str, Any] | None


def tiny(transformers: Any, image: Settings = None, text: Settings = None, joint: Settings = None, **more: Any) -> Any:
    """A FlavaConfig of test size; the pretraining heads need one width for all."""
    text = {"vocab_size": 50, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 44, "max_position_embeddings": 20, **(text or {})}  # fmt: skip
    image = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
             "image_size": 24, "patch_size": 8, "vocab_size": 30, **(image or {})}  # fmt: skip
    joint = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48,
             **(joint or {})}  # fmt: skip
    codec = {"hidden_size": 8, "vocab_size": 30}
    more = {"hidden_size": 36, "projection_dim": 20, "image_codebook_config": codec, **more}
    return transformers.FlavaConfig(image_config=image, text_config=text, multimodal_config=joint, **more)


def inputs(config: Any) -> Tensors:
    """Three pictures and texts of unequal length."""
    mask = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 4, 2)])
    ids = randomise.ids("words", (3, 7), 4, 50) * mask
    height, width = (config.image_config.image_size,) * 2 if isinstance(config.image_config.image_size, int) else (
        config.image_config.image_size)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": randomise.values("pixels", (3, 3, height, width))}


def projected(oracle: Any, given: Tensors) -> dict[str, Any]:
    """Every token in the joint space, and the joint embeddings."""
    image = oracle.get_image_features(given["pixel_values"]).pooler_output
    text = oracle.get_text_features(given["input_ids"], given["attention_mask"]).pooler_output
    return {"image": image, "text": text, "multimodal": oracle(**given).multimodal_embeddings}




def size(variant: Variant) -> Size:
    assert variant.config is not None
    config = variant.config
    kind = (config.get("architectures") or ["FlavaImageCodebook"])[0]
    known = {name: value for name, value in config.items() if name != "model_type"}
    return hugging_size(
        variant.name,
        kind,
        lambda t: (t.FlavaImageCodebookConfig if kind == "FlavaImageCodebook" else t.FlavaConfig)(**known),
    )


EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}, {PRETRAINING}, FlavaImageCodebook",
    cases=(
        hugging_case("three encoders of different widths", MODEL,
                     lambda t: tiny(t, {"hidden_size": 32, "num_attention_heads": 4, "mask_token": False},
                                    {"hidden_act": "gelu_new", "qkv_bias": False},
                                    {"hidden_size": 40, "num_attention_heads": 5, "use_cls_token": False}),
                     inputs, reading=Reading(logits=None, features=projected)),
        hugging_case("one layer each, other patches, a picture that is not square", MODEL,
                     lambda t: tiny(t, {"num_hidden_layers": 1, "image_size": [24, 36], "patch_size": [8, 12]},
                                    {"num_hidden_layers": 1}, {"num_hidden_layers": 1}),
                     inputs, reading=Reading(logits=None, features=projected)),
        hugging_case("contrastive logits of the pretraining class", PRETRAINING, lambda t: tiny(t, return_loss=False),
                     inputs, reading=Reading(logits=lambda found: found.contrastive_logits_per_image)),
        hugging_case("pretraining class without codec", PRETRAINING,
                     lambda t: tiny(t, return_loss=False, init_codebook=False), inputs,
                     reading=Reading(logits=lambda found: found.contrastive_logits_per_image)),
        hugging_case("codec", "FlavaImageCodebook",
                     lambda t: t.FlavaImageCodebookConfig(hidden_size=8, vocab_size=30, num_blocks_per_group=3,
                                                          num_groups=2),
                     lambda config: {"pixel_values": randomise.values("pixels", (2, 3, 32, 48))},
                     reading=Reading(logits=lambda found: found)),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
)  # fmt: skip
