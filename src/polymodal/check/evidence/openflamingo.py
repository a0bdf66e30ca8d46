"""OpenFlamingo against the official classes, run elsewhere; see the sources in the fixtures.

The official Flamingo module, open_clip's vision transformer and the library's MPT, GPT-NeoX and LLaMA were filled with
random numbers and asked: texts before the pictures, three pictures and one, rows of unequal length, 16 greedy steps.
MPT-1B's norms of queries and keys were put into the library's MPT by hand.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from polymodal.check import few_shot, real
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Case, Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.openflamingo import SYSTEM
from polymodal.systems.openflamingo.checkpoint import END, IMAGE, PAD

FIXTURES = {"3b": "openflamingo_mosaic", "4b": "openflamingo_neox", "9b": "openflamingo"}
COUNTED = {"3b": 2_559_117_360, "4b": 4_039_816_224, "9b": 8_131_465_232}  # by the official module itself
SOURCE = "official Flamingo class over transformers 4.33.3 on the meta device, without its aliases"


def case(name: str, fixture: str) -> Case:
    """The stored case, and each of its rows without padding and with its own pictures."""
    _, stored = read(fixture)
    rows = []
    for row, count in ((0, 3), (1, 1)):
        real = stored["in.attention_mask"][row].bool()
        ids, pictures = stored["in.input_ids"][row][real][None], stored["in.vision_x"][row, None, :count]
        rows.append((row, {"input_ids": ids, "vision_x": pictures}))
    return fixture_case(name, fixture, alone=tuple(rows))


def small(vocabulary: int, media: int) -> dict[str, Any]:
    """A config small enough to be trained in seconds."""
    text = {"model_type": "mpt", "d_model": 48, "n_heads": 4, "n_layers": 2, "vocab_size": vocabulary,
            "max_seq_len": 512}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 8, "mlp_ratio": 2.0,
              "embed_dim": 16, "quick_gelu": True}  # fmt: skip
    resampler = {"depth": 1, "num_latents": 4, "heads": 4, "dim_head": 8}
    return {"model_type": "open_flamingo", "text_config": text, "vision_config": vision, "perceiver_config": resampler,
            "media_token_id": media}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter."""
    torch.manual_seed(0)
    pixels = real.pixels(32)
    model = SYSTEM.formats[0].model_spec(small(32, 31)).build()
    made = caption_check(model, [31, 1], side=32, more=lambda rows: {"vision_x": pixels[rows], "pixel_values": None})
    return replace(made, batches=lambda step: {"MMC4": made.batches(step)})


def headline() -> HeadlineResult:
    """Few-shot naming of real pictures by `chat`, from a folder in the published format."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, {END: 256, IMAGE: 257, PAD: 258}), 257)
        write_config(folder, config={**config, "eos_token_id": 256})
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        return few_shot.few_shot_headline(folder, model_spec, system="openflamingo", lr=2e-3)


EVIDENCE = Evidence(
    oracle=fixture_source("openflamingo"),
    cases=(
        case("MPT, a gated block in every second layer", "openflamingo"),
        case("MPT-1B with normed queries and keys, in every layer", "openflamingo_mosaic"),
        case("GPT-NeoX one after the other, untied head, exact gelu in CLIP", "openflamingo_neox"),
        case("LLaMA, as the first release", "openflamingo_llama"),
    ),
    published=tuple(
        fixture_size(FIXTURES[each.name[:2]], each.name, COUNTED[each.name[:2]], SOURCE) for each in SYSTEM.variants
    ),
    training_checks={"interleaved": training_check},
    headline=headline,
)
