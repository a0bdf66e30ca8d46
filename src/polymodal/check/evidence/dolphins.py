"""Dolphins against the official module with PEFT, run elsewhere; see the source in the fixture.

Clips of four frames, texts before, between and behind three of them and one, rows of unequal length, 16 greedy steps.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import QUESTION, byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.evidence.multimodal_gpt import case, opened
from polymodal.check.film import film, zoomed
from polymodal.check.fixture import fixture_size, fixture_source
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.dolphins import SYSTEM
from polymodal.systems.dolphins.checkpoint import ANSWER, END, IMAGE, PAD

SOURCE = "the official module with PEFT on the meta device, without its aliases"


def small(vocabulary: int, media: int) -> dict[str, Any]:
    """A config small enough to be trained in seconds."""
    text = {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": vocabulary,
            "max_seq_len": 512}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 1, "head_width": 12, "mlp_ratio": 2.0,
              "embed_dim": 16, "quick_gelu": True}  # fmt: skip
    resampler = {"depth": 1, "num_latents": 4, "heads": 4, "dim_head": 8}
    return {"model_type": "dolphins", "text_config": text, "vision_config": vision, "lora_r": 8, "lora_alpha": 8,
            "perceiver_config": resampler, "cross_attn_every_n_layers": 1, "media_token_id": media}  # fmt: skip


def training_check() -> TrainingCheck:
    """Clips of two frames of a picture and its name, letter by letter; both stages differ only in their data."""
    torch.manual_seed(0)
    pixels = real.pixels(32)
    model = SYSTEM.formats[0].model_spec(small(32, 31)).build()
    opened(model)

    def clips(rows: list[int]) -> dict[str, Any]:
        return {"video_values": pixels[rows][:, None, None].expand(-1, -1, 2, -1, -1, -1), "pixel_values": None}

    return caption_check(model, [31, 1], side=32, lr=1e-2, more=clips)


def headline() -> HeadlineResult:
    """A tiny model is trained on films of four real pictures and asked about each by `chat`, from its own folder."""
    torch.manual_seed(0)
    samples = real.pictures()[:4]
    films = [pm.video(film(zoomed(picture, 20))) for picture, _ in samples]
    asked = [[{"role": "user", "content": [each, QUESTION]}] for each in films]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        names = ("<|endoftext|>", END, IMAGE, ANSWER, PAD)
        config = small(byte_tokenizer(folder, names, bos="<|endoftext|>", pad=PAD), names.index(IMAGE))
        write_config(folder, config=config, generation_config={"eos_token_id": names.index(END)})
        model_spec = SYSTEM.formats[0].model_spec(config)
        module = model_spec.build()
        opened(module)
        write_weights(folder, module, model_spec.keys[0])
        told = [{"role": "assistant", "content": name} for _, name in samples]
        talks = [[*each, answer] for each, answer in zip(asked, told, strict=True)]
        train_on_conversations(pm.load(folder), talks, writer(folder, model_spec), steps=240)
        again = pm.load(folder)
        right = sum(again.chat(each, max_tokens=24).text.strip() == name
                    for each, (_, name) in zip(asked, samples, strict=True))  # fmt: skip
    return HeadlineResult(
        ok=right == 4, evidence=f"tiny weights trained on films of 4 pictures: chat names {right} of them"
    )


EVIDENCE = Evidence(
    oracle=fixture_source("dolphins"),
    cases=(case("clips of four frames, a gated block in every second layer", "dolphins"),),
    published=(fixture_size("dolphins", "9b", 8_182_128_656, SOURCE),),
    training_checks={"ground": training_check, "drive": training_check},
    headline=headline,
)
