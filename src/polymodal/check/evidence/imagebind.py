"""ImageBind against the official code, run outside the project: six modalities, clips, pictures of another size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import write_config, write_weights
from polymodal.check.encoder_checks import COUNT, TensorOfRows, contrastive_check
from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.record import Evidence, HeadlineResult, TrainingCheck
from polymodal.check.training import learned
from polymodal.data import imagebind_inputs
from polymodal.models.dual_encoder import l2_normalise
from polymodal.systems.imagebind import SYSTEM

TINY: dict[str, Any] = {
    "model_type": "imagebind", "kernel_size": (2, 56, 56), "out_embed_dim": 24, "depth_kernel_size": 56,
    "thermal_kernel_size": 56, "audio_kernel_size": 32, "audio_stride": 32,
} | {f"{name}_embed_dim": 32 for name in ("vision", "text", "audio", "depth", "thermal", "imu")} | {
    f"{name}_num_{part}": 1 if part == "blocks" else 4
    for name in ("vision", "text", "audio", "depth", "thermal", "imu") for part in ("blocks", "heads")
}  # fmt: skip


def others() -> dict[str, TensorOfRows]:
    """What stands for each sense of a picture: its grey plane as depth and heat, its rows as motion, and a piece of
    the spoken sentence as its sound."""
    grey = real.pixels(224, count=COUNT).mean(1, keepdim=True)
    series = torch.nn.functional.interpolate(grey[:, 0, ::37][:, :6], 2000)

    def sounds(rows: list[int]) -> Tensor:
        samples = real.speech()
        return torch.stack([imagebind_inputs.audio_clips(samples[8000 * i :][:16000], clips=1) for i in rows])

    return {"depth": lambda rows: grey[rows], "thermal": lambda rows: (grey[rows] + 1) / 2,
            "imu": lambda rows: series[rows], "audio": sounds}  # fmt: skip


def training_check(modality: str) -> Callable[[], TrainingCheck]:
    """Pictures and another sense of them, pulled together; the picture's encoder is frozen."""

    def made() -> TrainingCheck:
        torch.manual_seed(0)
        pixels = real.pixels(224, count=COUNT)
        model = SYSTEM.formats[0].model_spec(TINY).build()
        return contrastive_check(model, ("vision", lambda rows: pixels[rows]), (modality, others()[modality]), steps=20)

    return made


def headline() -> HeadlineResult:
    """Series of motion bound to pictures, from a folder: each finds its own picture among eight."""
    with tempfile.TemporaryDirectory() as directory:
        folder, model_spec = Path(directory), SYSTEM.formats[0].model_spec(TINY)
        training = replace(training_check("imu")(), lr=2e-3)
        write_config(folder, config=TINY)
        write_weights(folder, learned(training, SYSTEM.recipe[3].objective, steps=200), model_spec.keys[0])
        rows = list(range(COUNT))
        found = pm.load(folder).features(vision=real.pixels(224, count=COUNT), imu=others()["imu"](rows))
    nearest = (l2_normalise(found["imu"]) @ l2_normalise(found["vision"]).T).argmax(1)
    right = int((nearest == torch.arange(COUNT)).sum())
    return HeadlineResult(ok=right >= COUNT - 1, evidence=f"{right} of {COUNT} series of motion find their own picture")


EVIDENCE = Evidence(
    oracle=fixture_source("imagebind"),
    cases=(
        fixture_case("six modalities, three clips of sound", "imagebind"),
        fixture_case("clips of video, one layer, sound of another length", "imagebind_clips"),
        fixture_case("larger pictures", "imagebind_larger"),
    ),
    published=(packed_size("imagebind_sizes", "huge", 1_200_781_057),),
    training_checks={name: training_check(name) for name in ("audio", "depth", "thermal", "imu")},
    headline=headline,
    exceptions=(
        "videos are read at 8 frames a second, the official loader takes the very last frame of each clip",
        "a recording with several channels is mixed to one, the official loader takes the first",
    ),
)
