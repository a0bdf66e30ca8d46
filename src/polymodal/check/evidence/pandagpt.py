"""PandaGPT against the official class, run outside the project on a tiny ImageBind and a tiny LLaMA."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import imagebind_lm, randomise, real
from polymodal.check.demo import train_and_chat, writer
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read
from polymodal.check.record import Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.data.messages import Message
from polymodal.systems.pandagpt import SYSTEM


def rows() -> list[tuple[int, Tensors]]:
    """Each row of the batch without padding, with its own picture."""
    _, tensors = read("pandagpt")
    vision = randomise.values("vision", (2, 3, 224, 224))
    mask = tensors["in.attention_mask"].bool()
    return [
        (row, {"input_ids": tensors["in.input_ids"][row][mask[row]][None], "vision": vision[row : row + 1]})
        for row in range(2)
    ]


def training_check() -> TrainingCheck:
    """Real pictures and the letters of their names, after one placeholder for all modalities."""
    torch.manual_seed(0)
    return imagebind_lm.caption_check(SYSTEM.formats[0].model_spec(imagebind_lm.config("pandagpt")).build(), [1, -1, 2])


def headline() -> HeadlineResult:
    """A tiny checkpoint, trained on real pictures through its own processor, names them by `chat`; it answers about a
    picture and a real sound at one placeholder, and thermal, depth and motion inputs change its logits."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model_spec = imagebind_lm.write_tiny_folder(folder, SYSTEM)
        right = train_and_chat(folder, writer(folder, model_spec), count=8, steps=STEPS)
        model = pm.load(folder)
        picture, _ = real.pictures()[0]
        both = model.chat(pm.image(picture), pm.audio((real.speech().numpy(), 16000)), "What is it?", max_tokens=8)
        seen = pm.image(picture)
        others = {"thermal": pm.image(picture, "thermal"), "depth": pm.image(picture, "depth"),
                  "imu": pm.array(randomise.values("imu", (6, 2000)), "imu")}  # fmt: skip
        alone = model.logits(**model.processor([pm_user(seen)], generate=True))
        moved = {
            name: float((model.logits(**model.processor([pm_user(seen, other)], generate=True)) - alone).abs().max())
            for name, other in others.items()
        }
    said = ", ".join(f"{name} {change:.2f}" for name, change in moved.items())
    ok = right >= 6 and min(moved.values()) > 1e-3 and both.tokens["generated"] > 0
    return HeadlineResult(
        ok=ok,
        evidence=f"chat names {right} of 8 real pictures; picture and speech at one placeholder are answered "
        f"with {both.tokens['generated']} tokens; logits move with {said}",
    )


def pm_user(*media: Any) -> Message:
    return Message(role="user", parts=(*media, pm.text("What is it?")))


STEPS = 200

EVIDENCE = Evidence(
    oracle=fixture_source("pandagpt"),
    cases=(
        fixture_case("two rows, a picture each", "pandagpt", alone=rows()),
        fixture_case("picture, video, sound and heat at one placeholder, generated", "pandagpt_senses"),
    ),
    training_checks={"instruct": training_check},
    headline=headline,
    published=tuple(packed_size("pandagpt_sizes", each.name, each.parameters) for each in SYSTEM.variants),
)
