"""Otter against the official module, run elsewhere; see the sources in the fixtures.

`modeling_otter.py` was filled with random numbers and asked: texts before the pictures, three pictures and one, clips
of three frames, rows of unequal length, 16 greedy steps without the cache, whose steps would see no picture.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check import few_shot, real
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.otter import SYSTEM
from polymodal.systems.otter.checkpoint import ANSWER, END, IMAGE, PAD

FIXTURES = {
    "image-mpt7b": ("otter_mpt", 8_131_301_392),
    "image-llama7b-in-context": ("otter_llama", 8_220_463_120),
    "video-llama7b-densecaption": ("otter_video", 8_220_594_192),
}
SOURCE = "the official module on the meta device; with the norm behind CLIP's last layer, which nothing reads"


def case(name: str, fixture: str) -> Case:
    """The stored case, and each of its rows without padding and with its own pictures or clips."""
    _, stored = read(fixture)
    rows = []
    for row, count in ((0, 3), (1, 1)):
        items = stored["in.vision_x"][row, None, :count]
        rows.append((row, {"input_ids": unpadded(stored, row), "vision_x": items}))
    return fixture_case(name, fixture, alone=tuple(rows))


def small(vocabulary: int, media: int) -> dict[str, Any]:
    """A config small enough to be trained in seconds."""
    text = {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 96, "vocab_size": vocabulary, "max_position_embeddings": 512}  # fmt: skip
    vision = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "hidden_size": 32,
              "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}  # fmt: skip
    resampler = {"depth": 1, "num_latents": 4, "heads": 4, "dim_head": 8}
    return {"model_type": "otter", "text_config": text, "vision_config": vision, "perceiver_config": resampler,
            "cross_attn_every_n_layers": 1, "media_token_id": media}  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter."""
    torch.manual_seed(0)
    pixels = real.pixels(32)
    model = SYSTEM.formats[0].model_spec(small(32, 31)).build()
    return caption_check(model, [31, 1], side=32, more=lambda rows: {"vision_x": pixels[rows], "pixel_values": None})


def headline() -> HeadlineResult:
    """In-context naming of real pictures by `chat`, from a folder in the published format."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        names = ("<unk>", "<s>", "</s>", END, IMAGE, ANSWER, PAD)
        config = small(byte_tokenizer(folder, names, bos="<s>", eos="</s>", pad=PAD), names.index(IMAGE))
        write_config(folder, config=config, generation_config={"eos_token_id": names.index(END)})
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        return few_shot.few_shot_headline(folder, model_spec, system="otter", lr=2e-3)


EVIDENCE = Evidence(
    oracle=fixture_source("otter_llama"),
    cases=(
        case("LLaMA, a gated block in every second layer, untied head", "otter_llama"),
        case("MPT with five heads, a gated block in every layer", "otter_mpt"),
        case("clips of three frames with positions", "otter_video"),
    ),
    published=tuple(
        fixture_size(fixture, variant, parameters, SOURCE) for variant, (fixture, parameters) in FIXTURES.items()
    ),
    training_checks={"instruct": training_check},
    headline=headline,
)
