"""What makes a sound of the spectrograms that Unified-IO 2 writes: a HiFi-GAN of its own, beside its weights.

    vocoder/   config.json, and g_00930000 as vocoder.pt: uio2/hifigan/checkpoints of its official code
    the logarithm of a mel spectrogram [1, 128, T] -> samples [1, 256 T] at 16 kHz in -1..1

Traps: the file keeps weights as length and direction; residual stacks have no second convolutions ("resblock" 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.generators import hifigan
from polymodal.generators.hifigan import HiFiGAN, HiFiGANConfig
from polymodal.models.spectrogram_vocoder import SpectrogramVocoder
from polymodal.systems import CheckpointFiles, ModelSpec, Part
from polymodal.weights.folder import weights_in
from polymodal.weights.load import load_module

VOICE, ENTRY = "vocoder", ("generator", "")
RATE, MELS, HOP = 16_000, 128, 256
CONFIG: dict[str, Any] = {
    "resblock": "2", "upsample_rates": [8, 8, 4], "upsample_kernel_sizes": [16, 16, 8],
    "upsample_initial_channel": 256, "resblock_kernel_sizes": [3, 5, 7],
    "resblock_dilation_sizes": [[1, 2], [2, 6], [3, 12]], "num_mels": MELS, "num_freq": 1025, "n_fft": 1024,
    "hop_size": HOP, "win_size": 1024, "sampling_rate": RATE, "fmin": 0, "fmax": 8000,
}  # fmt: skip
PARAMETERS = 1_548_289


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a vocoder of spectrograms of 128 mels, not of units."""
    return config.get("num_mels") == MELS and not {"num_embeddings", "code_hop_size"} & set(config)


def vocoder_config(config: Mapping[str, Any]) -> HiFiGANConfig:
    """A published config.json.  Raises ConfigError for another rate or number of mels than the model writes."""
    found = hifigan.parse_config(config)
    for name, value, wanted in (("sampling_rate", config.get("sampling_rate", RATE), RATE),
                                ("num_mels", found.mels, MELS)):  # fmt: skip
        if value != wanted:
            raise ConfigError(f"unified-io-2: vocoder: {name}: expected {wanted}, found {str(value)[:40]}")
    return found


def parse_vocoder(config: Mapping[str, Any]) -> ModelSpec:
    """A published config.json -> the vocoder as a model of its own."""
    found = vocoder_config(config)
    keys = hifigan.weight_norm_keys(found.paired).prefixed("", "vocoder.")
    return ModelSpec(build=lambda: SpectrogramVocoder(found), keys=(keys,), parts=(box("vocoder"),))


def box(prefix: str = "") -> Part:
    """The vocoder in the drawing."""
    return Part(slot="generator", modality="audio", name="HiFi-GAN", prefix=prefix,
                input=f"log mel spectrogram [N, {MELS}, T]", output=f"[N, {HOP} T] samples at {RATE // 1000} kHz",
                parameters=0 if prefix else PARAMETERS)  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """The vocoder of a model's folder, read when it is first needed."""

    folder: Path

    @cached_property
    def vocoder(self) -> HiFiGAN:
        """Raises ConfigError where there is none, and for one whose spectrograms are others."""
        place = self.folder / VOICE
        if not (place / "config.json").is_file():
            raise ConfigError(
                f"{self.folder} has no {VOICE}/config.json, so it makes no sound; put config.json and g_00930000 (as "
                "vocoder.pt) there, from uio2/hifigan/checkpoints of github.com/allenai/unified-io-2.pytorch"
            )
        config = vocoder_config(CheckpointFiles(place).json("config.json"))
        keys = hifigan.weight_norm_keys(config.paired)
        return load_module(config.build, weights_in(place, ENTRY), (keys,), dtype=torch.float32).eval()

    @torch.no_grad()
    def samples(self, logs: Tensor) -> Tensor:
        """The logarithm of a mel spectrogram [M, T] -> samples float32 [n], on the host."""
        return self.vocoder(logs[None].float().cpu())[0]
