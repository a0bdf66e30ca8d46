"""KOSMOS-1, of which nothing was released, against torchscale's decoder (sub-LN, xPos; by authors of the paper) behind
KOSMOS-2's tower and projection of transformers, joined as KOSMOS-2's code joins them and run on rows by themselves.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from polymodal.check import few_shot, randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.kosmos_2 import named_check
from polymodal.check.fixture import fixture_case, fixture_source, read
from polymodal.check.hugging import hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.checkpoints.kosmos import MASK
from polymodal.systems import Variant
from polymodal.systems.kosmos_1 import SYSTEM

SPECIALS = ["<s>", "<pad>", "</s>", "<image>", "</image>"]


def case(name: str, fixture: str, pictures: Sequence[int]) -> Case:
    """A stored case; pictures: of each row.  Each row is also given by itself, without its padding."""
    about, tensors = read(fixture)
    pixels = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"])
    alone: list[tuple[int, Tensors]] = []
    for row, own in enumerate(pixels.split(list(pictures))):
        real_ones = tensors["in.attention_mask"][row].bool()
        given = {name: tensors[f"in.{name}"][row, real_ones][None] for name in ("input_ids", MASK)}
        alone.append((row, {**given, **({"pixel_values": own} if len(own) else {})}))
    return fixture_case(name, fixture, alone=tuple(alone))


def size(variant: Variant) -> Size:
    """xPos and sines have no parameters, so that the names and shapes are those of KOSMOS-2 with fewer words."""
    text = (variant.config or {})["text_config"]
    return hugging_size(variant.name, "Kosmos2ForConditionalGeneration",
                        lambda t: t.Kosmos2Config(text_config={"vocab_size": text["vocab_size"]}))  # fmt: skip


def small(vocabulary: int, depth: int = 2) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: pictures of 56 x 56, 8 queries.

    depth: layers of the tower.
    """
    return {
        "model_type": "kosmos-1", "latent_query_num": 8,
        "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": depth,
                          "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
        "text_config": {"embed_dim": 64, "ffn_dim": 128, "layers": 2, "attention_heads": 4, "vocab_size": vocabulary,
                        "xpos_scale_base": 512},
    }  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter, under a tower of 24 layers of which the last learns."""
    torch.manual_seed(0)
    return named_check(SYSTEM.formats[0].model_spec(small(40, depth=24)).build())


def write_words(folder: Path) -> int:
    """A tokenizer of bytes with the paper's marks; returns its size."""
    return byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="<pad>")


def headline() -> HeadlineResult:
    """Pages of pictures with their names, then a picture to name: the tiny model is asked in orders never trained."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(write_words(folder))
        write_config(folder, config=config, generation_config={"eos_token_id": 2})
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        return few_shot.few_shot_headline(folder, model_spec, system=SYSTEM.id)


EVIDENCE = Evidence(
    oracle=f"paper: {fixture_source('kosmos_1')}",
    cases=(
        case("pictures among text, a row without one", "kosmos_1", (2, 0, 3)),
        case("xPos over a short base, untied, one query, one layer", "kosmos_1_short", (2, 1)),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
    training_checks={"pretrain": training_check, "instruct": training_check},
    headline=headline,
    exceptions=(
        "nothing was released; read from the paper: sizes (it says about 1.6B in all), vocabulary, xPos, sub-LN, "
        "64 features a picture, prompt, recipe; the exact number of parameters is counted, not published",
        "taken from KOSMOS-2's code, since the paper does not say: norm of the features, resampler, tied head",
    ),
)  # fmt: skip
