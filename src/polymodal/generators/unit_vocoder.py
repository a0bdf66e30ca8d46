"""From speech units to a waveform: HiFi-GAN (arXiv 2010.05646) behind an embedding of units and their durations.

    units [1, S] -> embedding [1, S, E] -> durations: round(exp(two convolutions, linear) - 1), at least 1
        -> each unit that many frames [1, E, T] -> HiFi-GAN (hifigan.py) -> samples [1, T * product of the rates]

fairseq's CodeHiFiGAN, whose file keeps weights as length and direction; they are folded when it is read.
Traps: the second convolution of durations pads 1 whatever its kernel; units that were merged need their durations,
units of every frame must not have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.generators.hifigan import HiFiGANConfig, weight_norm_keys
from polymodal.weights.keytable import KeyTable, Row, rename

MOST_FRAMES = 1 << 17  # 43 minutes at 20 ms


@dataclass(frozen=True, kw_only=True)
class DurationConfig:
    """The predictor of how many frames a unit lasts."""

    width: int = 128
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel not in (1, 2, 3):  # as official: with a longer one, the second convolution shortens the text
            raise ConfigError(f"unit vocoder: var_pred_kernel_size: expected 3, found {self.kernel}")


@dataclass(frozen=True, kw_only=True)
class UnitVocoderConfig:
    """waves: what turns embeddings of frames into samples, its `mels` their width.  durations None: units of every
    frame alone."""

    units: int = 1000
    waves: HiFiGANConfig
    durations: DurationConfig | None = DurationConfig()
    sampling_rate: int = 16_000

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return self.waves.hop

    def build(self) -> UnitVocoder:
        return UnitVocoder(self)


class Durations(nn.Module):
    """Embeddings [N, S, E] -> logarithms of durations and one [N, S]."""

    def __init__(self, width: int, config: DurationConfig) -> None:
        super().__init__()
        hidden, kernel = config.width, config.kernel
        self.conv1 = nn.Conv1d(width, hidden, kernel, padding=(kernel - 1) // 2)
        self.norm1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Conv1d(hidden, hidden, kernel, padding=1)
        self.norm2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(F.relu(self.conv1(x.transpose(1, 2))).transpose(1, 2))
        x = self.norm2(F.relu(self.conv2(x.transpose(1, 2))).transpose(1, 2))
        return self.proj(x)[..., 0]


class UnitVocoder(nn.Module):
    """See the module docstring."""

    def __init__(self, config: UnitVocoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.waves.mels
        self.embed_units = nn.Embedding(config.units, width)
        self.durations = None if config.durations is None else Durations(width, config.durations)
        self.waves = config.waves.build()

    def lasting(self, units: Tensor) -> Tensor:
        """Units [1, S] -> their durations in frames, int64 [S].  Raises ConfigError without a predictor."""
        if self.durations is None:
            raise ConfigError(
                "unit vocoder: its config.json has no dur_predictor_params; merged units cannot be spoken"
            )
        found = self.durations(self.embed_units(units))
        frames = (found.exp() - 1).round().clamp(min=1)[0]
        total = 0.0 if units.is_meta else frames.detach().sum().item()
        if not total <= MOST_FRAMES:
            raise PromptError(f"unit vocoder: the units last {total:.0f} frames, at most {MOST_FRAMES}")
        return frames.long()

    def forward(self, units: Tensor, merged: bool = True) -> Tensor:
        """Units int64 [1, S] -> samples [1, n] in [-1, 1].  merged: without repetitions, so durations are predicted.

        Raises PromptError for more than one row and for units that there are not.
        """
        count = self.config.units
        if units.dim() != 2 or len(units) != 1 or not units.numel():
            raise PromptError(f"unit vocoder: expected one row of units [1, S], found {list(units.shape)}")
        if not units.is_meta and not 0 <= int(units.min()) <= int(units.max()) < count:
            wrong = next(int(unit) for unit in units[0] if not 0 <= unit < count)
            raise PromptError(f"speech unit {wrong} does not exist; the vocoder speaks units 0..{count - 1}")
        frames = units.repeat_interleave(self.lasting(units), dim=1) if merged else units
        return self.waves(self.embed_units(frames).transpose(1, 2))


_UNSUPPORTED = ("multispkr", "embedder_params", "f0", "f0_quant_num_bin")
KNOWN = ("dur_predictor_params", "code_hop_size")
"""What only the config.json of such a vocoder has."""


def parse_config(config: Mapping[str, Any]) -> UnitVocoderConfig:
    """A vocoder's config.json -> its config; ConfigError for speakers, pitch and another kind of residual block."""
    for name in _UNSUPPORTED:
        if config.get(name):
            raise ConfigError(f"unit vocoder: {name} {config[name]!r} is not supported; it speaks with one voice")
    if str(config.get("resblock", "1")) != "1":
        raise ConfigError(f"unit vocoder: resblock: expected '1', found {config['resblock']!r}")
    width = config["embedding_dim"]
    if config.get("model_in_dim", 80) != width:
        raise ConfigError(f"unit vocoder: model_in_dim: expected embedding_dim {width}, found {config['model_in_dim']}")
    told = config.get("dur_predictor_params")
    waves = HiFiGANConfig(
        mels=width,
        width=config["upsample_initial_channel"],
        rates=tuple(config["upsample_rates"]),
        rate_kernels=tuple(config["upsample_kernel_sizes"]),
        kernels=tuple(config["resblock_kernel_sizes"]),
        dilations=tuple(map(tuple, config["resblock_dilation_sizes"])),
    )
    return UnitVocoderConfig(
        units=config["num_embeddings"],
        waves=waves,
        durations=None if not told else _durations(told, width),
        sampling_rate=config.get("sampling_rate", 16_000),
    )


def _durations(told: Mapping[str, Any], width: int) -> DurationConfig:
    if told["encoder_embed_dim"] != width:
        raise ConfigError(
            f"unit vocoder: dur_predictor_params.encoder_embed_dim: expected {width}, found {told['encoder_embed_dim']}"
        )
    return DurationConfig(width=told["var_pred_hidden_dim"], kernel=told["var_pred_kernel_size"])


def keys(config: UnitVocoderConfig) -> KeyTable:
    """fairseq's CodeHiFiGAN -> ours."""
    rows: list[Row] = [rename("dict.weight", "embed_units.weight")]
    plain = {"conv1.0": "conv1", "ln1": "norm1", "conv2.0": "conv2", "ln2": "norm2", "proj": "proj"}
    if config.durations is not None:
        for theirs, ours in plain.items():
            rows += [
                rename(f"dur_predictor.{theirs}.{leaf}", f"durations.{ours}.{leaf}") for leaf in ("weight", "bias")
            ]
    return KeyTable(tuple(rows)) + weight_norm_keys().prefixed("", "waves.")
