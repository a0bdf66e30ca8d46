"""Emu3 against transformers: pictures of unequal size, codes anywhere in the vocabulary, the decoder alone."""

from __future__ import annotations

from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.evidence import _text
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, Tensors
from polymodal.systems.emu3 import SYSTEM

MODEL = "Emu3ForConditionalGeneration"
IMAGE, ROW_END, CODES = 9, 8, 24
SIZES = ((8, 12), (12, 8), (8, 8))  # of the three pictures, padded to 12 x 12


def tiny(transformers: Any, first: int, codec: dict[str, Any], tied: bool, **text: Any) -> Any:
    """An Emu3Config of test size; code k has the id `first - k`, downwards, so that nothing can count."""
    codec = {"codebook_size": CODES, "base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1,
             "attn_resolutions": [1], "hidden_size": 64, **codec}  # fmt: skip
    text = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, **text}  # fmt: skip
    names = {f"<|visual token {k:06d}|>": first - k for k in range(codec["codebook_size"])}
    return transformers.Emu3Config(vocabulary_map={**names, "<image>": IMAGE, "<|extra_200|>": ROW_END},
                                   vq_config=codec, text_config=text, tie_word_embeddings=tied)  # fmt: skip


def inputs(config: Any) -> Tensors:
    """Two rows of unequal length padded on the left: one picture between texts; two pictures, the last at the end."""
    factor = 1 << len(config.vq_config.channel_multiplier) - 1
    pictures = [[IMAGE] * (height // factor * (width // factor + 1)) for height, width in SIZES]
    words = randomise.ids("words", (40,), 10, config.text_config.vocab_size).tolist()
    rows = [words[:5] + pictures[0] + words[5:9], words[9:12] + pictures[1] + words[12:19] + pictures[2]]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": randomise.values("pixels", (3, 3, 12, 12)),
            "image_sizes": torch.tensor(SIZES)}  # fmt: skip


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    rows = []
    for row, some in ((0, slice(0, 1)), (1, slice(1, 3))):
        ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
        rows.append((row, {"input_ids": ids, **{name: given[name][some] for name in ("pixel_values", "image_sizes")}}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    found = oracle.model.get_image_features(given["pixel_values"], given["image_sizes"])
    return {"image": list(found.pooler_output)}


def case(name: str, first: int = 60, codec: dict[str, Any] | None = None, tied: bool = False, **text: Any) -> Case:
    return hugging_case(name, MODEL, lambda t: tiny(t, first, codec or {}, tied, **text), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def decoder(name: str, **text: Any) -> Case:
    """The language model alone."""
    small = {"vocab_size": 83, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, **text}  # fmt: skip
    return hugging_case(name, "Emu3ForCausalLM", lambda t: t.models.emu3.Emu3TextConfig(**small), _text.inputs,
                        generate=True, alone=_text.alone)  # fmt: skip


OFFICIAL = {"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"], "rope_parameters": None, "rope_theta": 1e6}
EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}",
    cases=(
        case("grouped heads"),
        case("one layer, one key head, tied, still frames only", codec={"temporal_downsample_factor": 1}, tied=True,
             num_hidden_layers=1, num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 99.0}),
        case("other codec, activation and rope", 88, {"channel_multiplier": [2, 1, 2], "attn_resolutions": [0],
             "codebook_size": 70, "num_res_blocks": 2, "num_attention_heads": 4}, hidden_act="gelu",
             rope_parameters={"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0}),
        decoder("decoder alone"),
        _text.respelled(decoder("decoder of the official repository", num_hidden_layers=1), OFFICIAL),
    ),
    published=tuple(
        hugging_size(each.name, MODEL, lambda t, each=each: t.Emu3Config(**each.config)) for each in SYSTEM.variants
    ),
)  # fmt: skip
