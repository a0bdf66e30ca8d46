"""Chameleon against transformers: both orders of the norms, codes anywhere in the vocabulary."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from polymodal.check import library, randomise
from polymodal.check.codec_and_decoder import FIRST, codec_alone, codec_and_decoder
from polymodal.check.demo import (
    Checkpoint,
    byte_tokenizer,
    spread_codec,
    spread_codes,
    train_and_chat,
    write_config,
    write_weights,
    writer,
)
from polymodal.check.fixture import fixture_case, fixture_source
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check, label_all_tokens
from polymodal.systems.chameleon import SYSTEM, official

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
    return {"image": library.features(oracle, "image", pixel_values=given["pixel_values"])}


def case(name: str, first: int = 60, codec: dict[str, Any] | None = None, **text: Any) -> Case:
    return hugging_case(name, MODEL, lambda t: tiny(t, first, codec or {}, **text), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


SPECIALS = ["<s>", "</s>", "<racm3:break>", "<eoss>", "<reserved08706>", "<image>"]


CODEC = {"embed_dim": 12, "num_embeddings": CODES, "latent_channels": 20, "resolution": 16, "base_channels": 32,
         "channel_multiplier": [1, 1, 1], "num_res_blocks": 1}  # fmt: skip


def small(size: int, placeholder: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 24 codes behind `size` ids of text, 16 to a picture."""
    names = {f"IMGIMG{str(k).translate(LETTERS)}Z": size + k for k in range(CODES)}
    return {"model_type": "chameleon", "architectures": [MODEL], "vocab_size": size + CODES, "hidden_size": 48,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "vq_config": CODEC, "vocabulary_map": {**names, "<image>": placeholder}}  # fmt: skip


def training_check(*, answers: bool) -> TrainingCheck:
    """Pictures as ids, then their names; the codec's codes are made to differ by pictures' own latents.

    answers: the names alone are learned, else pictures and text alike.
    """
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 31)).build()
    spread_codes(model)
    made = caption_check(model, [32, *[31] * 16, 33], side=16)
    return made if answers else replace(made, batches=lambda step: label_all_tokens(made.batches(step)))


def headline() -> HeadlineResult:
    """A tiny Chameleon is trained on eight real pictures as ids and asked about each by `chat`, from its folder."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="</s>")
        config = small(size, SPECIALS.index("<image>"))
        sides = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
        write_config(folder, config=config, preprocessor_config=sides, generation_config={"eos_token_id": 1})
        model_spec = SYSTEM.formats[0].model_spec(config)
        module = model_spec.build()
        spread_codes(module)
        write_weights(folder, module, model_spec.keys[0])
        right = train_and_chat(folder, writer(folder, model_spec), count=8, steps=120)
    seen = f"tiny weights trained on 8 pictures as ids of the text's vocabulary: chat names {right} of them"
    return HeadlineResult(ok=right == 8, evidence=f"{seen} (published weights were not at hand)")


@cache
def apart() -> HeadlineResult:
    """The official files: vqgan.ckpt, which has the way back to pixels, and consolidated.pth."""
    codec, decoder = official.LAYOUTS[1], official.LAYOUTS[0]
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 4, "vocab_size": FIRST + CODES}  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        return codec_and_decoder(
            Checkpoint(format=codec, config=CODEC, file="vqgan.ckpt", prepare=spread_codec),
            Checkpoint(format=decoder, config={"model_type": "chameleon_official", **sizes}, file="consolidated.pth"),
            16, Path(directory),
        )  # fmt: skip


def configured(config: Any, transformers: Any) -> Any:
    return transformers.ChameleonConfig(**config)


EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}; {fixture_source('chameleon_consolidated')}",
    cases=(
        case("grouped heads"),
        case("norms behind the branches, biases, one layer", num_hidden_layers=1, swin_norm=True, attention_bias=True,
             mlp_bias=True, model_parallel_size=2),
        case("tied, other codec, rope and activation", 88, {"channel_multiplier": [1, 1, 2], "attn_resolutions": [8],
             "num_embeddings": 70, "num_res_blocks": 2, "embed_dim": 7}, tie_word_embeddings=True,
             num_key_value_heads=4, hidden_act="gelu",
             rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}),
        fixture_case("official consolidated.pth", "chameleon_consolidated"),
    ),
    published=tuple(hugging_size(each.name, MODEL, partial(configured, each.config)) for each in SYSTEM.variants),
    training_checks={"pretrain 1": partial(training_check, answers=False),
                     "pretrain 2": partial(training_check, answers=False),
                     "align": partial(training_check, answers=True)},
    headline=headline,
    layouts={
        official.LAYOUTS[0].name: apart,
        official.LAYOUTS[1].name: lambda: codec_alone(apart()),
    },
)  # fmt: skip
