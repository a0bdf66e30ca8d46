"""MultiModal-GPT against the official module with PEFT, run elsewhere; see the sources in the fixtures.

Texts before, between and behind three pictures and one, rows of unequal length, 16 greedy steps of whole passes.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import QUESTION, byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems.multimodal_gpt import SYSTEM
from polymodal.systems.multimodal_gpt.checkpoint import END, IMAGE, PAD

SOURCE = "the official module with PEFT on the meta device, without its aliases and without CLIP's text side"


def case(name: str, fixture: str) -> Case:
    """The stored case, and each of its rows without padding and with its own pictures."""
    _, stored = read(fixture)
    rows = []
    for row, count in ((0, 3), (1, 1)):
        items = stored["in.vision_x"][row, None, :count]
        rows.append((row, {"input_ids": unpadded(stored, row), "vision_x": items}))
    return fixture_case(name, fixture, alone=tuple(rows))


def small(vocabulary: int, media: int = 4) -> dict[str, Any]:
    """A config small enough to be trained in seconds."""
    text = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 96, "vocab_size": vocabulary, "max_position_embeddings": 512}  # fmt: skip
    vision = {"image_size": 56, "patch_size": 14, "width": 48, "layers": 1, "head_width": 12, "mlp_ratio": 2.0,
              "embed_dim": 16, "quick_gelu": True}  # fmt: skip
    resampler = {"depth": 1, "num_latents": 4, "heads": 4, "dim_head": 8}
    return {"model_type": "multimodal_gpt", "text_config": text, "vision_config": vision, "lora_r": 8, "lora_alpha": 8,
            "perceiver_config": resampler, "cross_attn_every_n_layers": 1, "media_token_id": media,
            "eos_token_id": 2}  # fmt: skip


def opened(module: torch.nn.Module) -> None:
    """Gates that are open, as OpenFlamingo's are before the tuning: behind closed ones nothing can be learned."""
    for name, parameter in module.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.5)


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter, and the names alone."""
    torch.manual_seed(0)
    pixels = real.pixels(56)
    model = SYSTEM.formats[0].model_spec(small(32, 31)).build()
    opened(model)
    seen = caption_check(model, [1, 31, 2], side=56, lr=3e-2,
                         more=lambda rows: {"vision_x": pixels[rows], "pixel_values": None})  # fmt: skip
    told = caption_check(model, [1, 2], side=56, more=lambda rows: {"pixel_values": None})
    names = [each.name for each in SYSTEM.recipe[0].data]
    return replace(seen, batches=lambda step: {names[0]: seen.batches(step), names[1]: told.batches(step)})


def headline() -> HeadlineResult:
    """A tiny model, base and low-rank paths, is trained on four real pictures and asked about each by `chat`."""
    torch.manual_seed(0)
    samples = real.pictures()[:4]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        names = ("<unk>", "<s>", "</s>", END, IMAGE, PAD)
        config = small(byte_tokenizer(folder, names, bos="<s>", eos="</s>", pad=PAD), names.index(IMAGE))
        write_config(folder, config=config, generation_config={"eos_token_id": 2})
        model_spec = SYSTEM.formats[0].model_spec(config)
        module = model_spec.build()
        opened(module)
        write_weights(folder, module, model_spec.keys[0])
        model = pm.load(folder)
        model.module.requires_grad_(True)  # nothing random is worth freezing
        asked = [[{"role": "user", "content": [pm.image(picture), QUESTION]}] for picture, _ in samples]
        told = [{"role": "assistant", "content": name} for _, name in samples]
        talks = [[*each, answer] for each, answer in zip(asked, told, strict=True)]
        train_on_conversations(model, talks, writer(folder, model_spec), steps=60)
        again = pm.load(folder)
        right = sum(again.chat(each, max_tokens=24).text.strip() == name
                    for each, (_, name) in zip(asked, samples, strict=True))  # fmt: skip
    return HeadlineResult(
        ok=right == 4,
        evidence=f"tiny weights trained on 4 pictures: chat names {right} of them (the released weights need LLaMA's "
        "and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("multimodal_gpt"),
    cases=(
        case("a gated block in every second layer, PEFT's older names", "multimodal_gpt"),
        case("a gated block in every layer, PEFT's newer names", "multimodal_gpt_wrapped"),
    ),
    published=(fixture_size("multimodal_gpt", "7b", 8_244_703_248, SOURCE),),
    training_checks={"instruct": training_check},
    headline=headline,
    exceptions=(
        "rows with and without pictures in one batch, and packed rows, are refused: the official code would run its "
        "gated blocks for all of them, and never mixes them",
    ),
)
