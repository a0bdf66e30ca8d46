"""A conformer that says when a word was heard: one feature for each acoustic token (Conformer, arXiv 2005.08100; CIF,
arXiv 1905.11235).

    filter banks [frames, mels] -> two convolutions of 3 x 3 with stride 2, ReLU -> linear -> times sqrt(D), + sinusoids
        -> depth x (half MLP, attention, gated depthwise convolution, half MLP, norm)                    [S, D]
        -> convolution over time -> linear, sigmoid: a weight for each place                             [S]
        -> weights add up; where they reach the threshold, the weighted sum so far is fired, and what is left of the
           weight begins the next one                                                          [T, D] -> [T, E]

As the published modules of the authors have it (CIF-PyTorch).  Traps: a feature takes 1 whole, although the threshold
is 0.99; the rest at the end is fired where it weighs more than a half, as there it is only for recordings that are
not the longest of their batch; batch norms always run with their stored statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.whale import features_of, sinusoids
from polymodal.errors import ConfigError, MediaError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class CifConformerConfig:
    """kernel: of the depthwise convolutions.  look: of the one that weighs.  tail: weight above which a rest fires."""

    width: int
    depth: int
    heads: int
    ffn_width: int
    out_width: int
    mels: int = 80
    kernel: int = 31
    look: int = 3
    threshold: float = 0.99
    tail: float = 0.5

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.look % 2 == 0 or features_of(self.mels) < 1:
            raise ConfigError(f"cif: expected odd kernels and 7 bins at least, found {self}")
        if self.width % 2 or not 0 < self.threshold <= 1:
            raise ConfigError(f"cif: expected an even width and a threshold in 0..1, found {self}")

    def build(self) -> CifConformer:
        return CifConformer(self)


class ConformerConvolution(nn.Module):
    """`[N, S, D] -> [N, S, D]`: norm, gate, depthwise convolution, batch norm, SiLU, linear; no biases."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = LayerNormConfig().build(width)
        self.gate_proj = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.out_proj = nn.Conv1d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(F.glu(self.gate_proj(self.norm(x).transpose(1, 2)), 1))
        kept = self.batch_norm
        x = F.batch_norm(x, kept.running_mean, kept.running_var, kept.weight, kept.bias, False, 0.0, kept.eps)
        return self.out_proj(F.silu(x)).transpose(1, 2)


class ConformerBlock(nn.Module):
    """`[N, S, D] -> [N, S, D]`"""

    def __init__(self, config: CifConformerConfig) -> None:
        super().__init__()
        width = config.width
        norm = LayerNormConfig()
        mlp = MLPConfig(width=width, ffn_width=config.ffn_width, activation="silu")
        self.first_norm, self.attn_norm, self.last_norm, self.norm = (norm.build(width) for _ in range(4))
        self.first_mlp, self.last_mlp = mlp.build(), mlp.build()
        self.attn = AttentionConfig(width=width, heads=config.heads, qkv_bias=True, out_bias=True).build()
        self.conv = ConformerConvolution(width, config.kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first_mlp(self.first_norm(x))
        x = x + self.attn(self.attn_norm(x))
        x = x + self.conv(x)
        return self.norm(x + 0.5 * self.last_mlp(self.last_norm(x)))


class CifConformer(nn.Module):
    """See the module docstring.  Recordings are read one by one, so that none sees another's padding."""

    def __init__(self, config: CifConformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, 2), nn.Conv2d(width, width, 3, 2)
        self.conv_proj = Linear(width * features_of(config.mels), width)
        self.blocks = nn.ModuleList(ConformerBlock(config) for _ in range(config.depth))
        self.look = nn.Conv1d(width, width, config.look, padding=config.look // 2)
        self.weigh = Linear(width, 1)
        self.out_proj = None if config.out_width == width else Linear(width, config.out_width, bias=False)

    def forward(self, audios: Tensor, frames: Sequence[int]) -> list[Tensor]:
        """audios float [N, frames, mels], frames of each, on the host -> N of [t, E].

        Raises MediaError for a recording that is too short, or in which nothing is heard.
        """
        return [self._read(item[:count]) for item, count in zip(audios, frames, strict=True)]

    def states(self, banks: Tensor) -> Tensor:
        """One recording [frames, mels] -> [1, S, D]; raises MediaError for less than 7 frames."""
        if features_of(len(banks)) < 1:
            raise MediaError(f"speech: expected at least 7 frames, found {len(banks)}")
        x = banks.to(self.conv1.weight.dtype)[None, None]
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.conv_proj(x.transpose(1, 2).flatten(2))
        x = x * math.sqrt(self.config.width) + sinusoids(x.shape[1], self.config.width).to(x)
        for block in self.blocks:
            x = block(x)
        return x

    def _read(self, banks: Tensor) -> Tensor:
        states = self.states(banks)
        weights = torch.sigmoid(self.weigh(self.look(states.transpose(1, 2)).transpose(1, 2)))
        fired = integrate(states[0], weights[0, :, 0], self.config.threshold, self.config.tail)
        if not fired:
            raise MediaError(f"speech: nothing is heard in {len(banks)} frames: their weights do not add up to a token")
        x = torch.stack(fired)
        return x if self.out_proj is None else self.out_proj(x)


def integrate(states: Tensor, weights: Tensor, threshold: float, tail: float) -> list[Tensor]:
    """states [S, D], weights [S] -> what is fired, one [D] each."""
    fired: list[Tensor] = []
    held, gathered = torch.zeros_like(weights[0]), torch.zeros_like(states[0])
    for state, weight in zip(states, weights, strict=True):
        if held + weight >= threshold:
            missing = 1.0 - held
            fired.append(gathered + missing * state)
            held, gathered = weight - missing, (weight - missing) * state
        else:
            held, gathered = held + weight, gathered + weight * state
    return [*fired, gathered / (held + 1e-10)] if held > tail else fired


class SoundOrFeatures(nn.Module):
    """What stands for the encoder of speech: sound goes through it, features that are finished pass."""

    def __init__(self, encoder: CifConformerConfig | None) -> None:
        super().__init__()
        self.encoder = None if encoder is None else encoder.build()

    def forward(self, values: Tensor, frames: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """values [N, T, E], or with `frames` of each recording [N, frames, mels]."""
        if frames is None or self.encoder is None:
            return values
        return self.encoder(values, [int(count) for count in frames])


def own_keys() -> KeyTable:
    """Our names, which no published file has, on disk."""
    block = "blocks.{}"
    both = ["conv1", "conv2", "conv_proj", "look", "weigh", f"{block}.first_norm", f"{block}.attn_norm",
            f"{block}.last_norm", f"{block}.norm", f"{block}.conv.norm", f"{block}.conv.batch_norm",
            *(f"{block}.attn.{name}_proj" for name in "qkvo"),
            *(f"{block}.{mlp}.{name}_proj" for mlp in ("first_mlp", "last_mlp")
              for name in ("up", "down"))]  # fmt: skip
    names = [f"{name}.{leaf}" for name in both for leaf in ("weight", "bias")]
    names += [f"{block}.conv.{name}.weight" for name in ("gate_proj", "depthwise", "out_proj")]
    names += [f"{block}.conv.batch_norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    return KeyTable.of({name: name for name in [*names, "out_proj.weight"]})
