"""The writing half of 4M's codecs of pixels, depth, normals and edges: arguments of the official class DiVAE.

    dec_type unet_patched, n_channels, latent_dim, patch_size     the U-Net
    num_train_timesteps, beta_schedule, zero_terminal_snr         how noise grows
    prediction_type, scheduler, clip_sample, thresholding         how it is drawn

Traps: what the class does not get has the class's defaults, a squared cosine, velocity and DDPM among them;
`thresholding` bounds by 1 and never by more, which is what `clip_sample` does; arguments of training (dropped
conditions) count nothing here.  `unet_shape` says a U-Net of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.generators.noise_shares import EndingInNoise, Linear, RootLinear, Shares, ShiftedCosine, SquaredCosine
from polymodal.generators.patch_diffusion import PatchDiffusionConfig, PatchUNetSizes
from polymodal.generators.samplers import SamplerConfig, Sight

SCHEDULES: dict[str, Shares] = {
    "linear": Linear(), "scaled_linear": RootLinear(0.0001, 0.02), "squaredcos_cap_v2": SquaredCosine(),
}  # fmt: skip
SHIFTED = "shifted_cosine:"
STEPS = 25  # of drawing, as the published script takes
SIGHTS: dict[str, Sight] = {"sample": "clean", "epsilon": "noise", "v_prediction": "velocity"}


def diffuses(config: Mapping[str, Any]) -> bool:
    """Whether the writing half is a diffusion model."""
    return str(config.get("dec_type", "")).startswith(("unet_", "uvit_")) or "beta_schedule" in config


def writing_half(config: Mapping[str, Any]) -> PatchDiffusionConfig | None:
    """None for a UViT, which no published codec has: its file is read for its ids."""
    name = str(config.get("dec_type", "unet_patched"))
    if name.startswith("uvit_"):
        return None
    if name != "unet_patched":
        raise ConfigError(f"fourm codec: dec_type of a codec that diffuses is unet_patched, found {name!r}")
    sampler = _sampler(config)
    return PatchDiffusionConfig(
        channels=config.get("n_channels", 3), codes=config.get("latent_dim", 32), place=config.get("patch_size", 16),
        sizes=_sizes(config.get("unet_shape") or {}), sampler=sampler, steps=min(STEPS, sampler.schedule.trained),
    )  # fmt: skip


def _sizes(own: Mapping[str, Any]) -> PatchUNetSizes:
    multipliers = tuple(own.get("channel_mult", (1, 2, 2, 2)))
    places = own.get("attention_resolutions", (4, 8))
    return PatchUNetSizes(
        width=own.get("model_channels", 256), multipliers=multipliers, blocks=own.get("num_res_blocks", 3),
        attends=tuple(1 << level in places for level in range(len(multipliers))), patch=own.get("patch_size", 4),
    )  # fmt: skip


def _sampler(config: Mapping[str, Any]) -> SamplerConfig:
    kind, sees = config.get("scheduler", "ddpm"), config.get("prediction_type", "v_prediction")
    if kind not in ("ddpm", "ddim"):
        raise ConfigError(f"fourm codec: scheduler is ddpm or ddim, found {kind!r}")
    if sees not in SIGHTS:
        raise ConfigError(f"fourm codec: prediction_type is one of {', '.join(SIGHTS)}, found {sees!r}")
    bounded = config.get("thresholding", True) or config.get("clip_sample", False)
    return SamplerConfig(
        schedule=NoiseSchedule(config.get("num_train_timesteps", 1000), _shares(config)), kind=kind, offset=0, last=1.0,
        sees=SIGHTS[sees], clip=1.0 if bounded else None, spacing="trailing" if kind == "ddim" else "leading",
    )  # fmt: skip


def _shares(config: Mapping[str, Any]) -> Shares:
    name = str(config.get("beta_schedule", "squaredcos_cap_v2"))
    if name.startswith(SHIFTED):
        try:
            return ShiftedCosine(float(name.removeprefix(SHIFTED)))
        except ValueError:
            raise ConfigError(f"fourm codec: beta_schedule {name!r}: expected a number behind the colon") from None
    if name not in SCHEDULES:
        known = ", ".join([*SCHEDULES, f"{SHIFTED}NUMBER"])
        raise ConfigError(f"fourm codec: beta_schedule is one of {known}, found {name!r}")
    return EndingInNoise(SCHEDULES[name]) if config.get("zero_terminal_snr", True) else SCHEDULES[name]
