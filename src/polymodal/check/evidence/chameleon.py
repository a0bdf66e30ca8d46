"""Chameleon against transformers: both orders of the norms, codes anywhere in the vocabulary."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, Tensors
from polymodal.systems.chameleon import SYSTEM

IMAGE = 9  # the placeholder
CODES = 24
MODEL = "ChameleonForConditionalGeneration"
LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def tiny(transformers: Any, first: int, codec: dict[str, Any], **text: Any) -> Any:
    """A ChameleonConfig of test size; code k has the id `first - k`, downwards, so that nothing can count."""
    codec = {"embed_dim": 12, "num_embeddings": CODES, "latent_channels": 20, "resolution": 16, "base_channels": 32,
             "channel_multiplier": [1, 2], "num_res_blocks": 1, **codec}  # fmt: skip
    text = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, **text}  # fmt: skip
    names = {f"IMGIMG{str(k).translate(LETTERS)}Z": first - k for k in range(codec["num_embeddings"])}
    return transformers.ChameleonConfig(vocabulary_map={**names, "<image>": IMAGE}, vq_config=codec, **text)


def inputs(config: Any) -> Tensors:
    """Two rows of unequal length padded on the left: one picture between texts; two pictures, the last at the end."""
    codec = config.vq_config
    side = codec.resolution
    picture = [IMAGE] * (side >> len(codec.channel_multiplier) - 1) ** 2
    words = [w for w in randomise.ids("words", (40,), 10, config.vocab_size).tolist() if w != IMAGE]
    rows = [words[:5] + picture + words[5:9], words[9:12] + picture + words[12:19] + picture]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    pixels = randomise.values("pixels", (3, codec.in_channels, side, side))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    rows = []
    for row, pictures in ((0, slice(0, 1)), (1, slice(1, 3))):
        ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
        rows.append((row, {"input_ids": ids, "pixel_values": given["pixel_values"][pictures]}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    return {"image": oracle.get_image_features(given["pixel_values"]).pooler_output}


def case(name: str, first: int = 60, codec: dict[str, Any] | None = None, **text: Any) -> Case:
    return hugging_case(name, MODEL, lambda t: tiny(t, first, codec or {}, **text), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}",
    cases=(
        case("grouped heads"),
        case("norms behind the branches, biases, one layer", num_hidden_layers=1, swin_norm=True, attention_bias=True,
             mlp_bias=True, model_parallel_size=2),
        case("tied, other codec, rope and activation", 88, {"channel_multiplier": [1, 1, 2], "attn_resolutions": [8],
             "num_embeddings": 70, "num_res_blocks": 2, "embed_dim": 7}, tie_word_embeddings=True,
             num_key_value_heads=4, hidden_act="gelu",
             rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}),
    ),
    published=tuple(
        hugging_size(each.name, MODEL, lambda t, each=each: t.ChameleonConfig(**each.config))
        for each in SYSTEM.variants
    ),
)  # fmt: skip
