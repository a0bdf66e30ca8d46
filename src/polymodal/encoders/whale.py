"""VITA's sound encoder "Whale" (arXiv 2408.05211, section 2.2): filter banks -> one feature for each 40 ms.

    audios [N, frames, mels] (`data/kaldi.py:fbank`) -> (x - mean) * istd of each bin
        -> two convolutions of 3 x 3 with stride 2, ReLU after each -> linear over channels and bins
        -> linear, norm, ReLU, times sqrt(D) -> depth x (attention, MLP with ReLU; both pre-norm) -> norm [N, S, D]

Attention sees positions in its scores alone:  (q + u) k + (q + v) p,  p a linear map of the key's sinusoid.
Traps: the positions are absolute, since the shift that would make them relative is left out; means and deviations are
buffers of the checkpoint; the convolutions pad nothing, so a frame count L gives ((L - 1) // 2 - 1) // 2 features and
none of them sees the padding behind a shorter recording.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, MediaError
from polymodal.nn.attention import attend
from polymodal.nn.computed import computed_buffer
from polymodal.nn.linear import Linear
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

Lengths = Tensor | Sequence[int]  # frames of each recording


def features_of(frames: int) -> int:
    """How many features that many frames give; below 1 where they are too few."""
    return ((frames - 1) // 2 - 1) // 2


@dataclass(frozen=True, kw_only=True)
class WhaleEncoderConfig:
    """`positions`: the most features of a recording.  eps: of the norms inside the blocks and behind them."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    ffn_width: int = 4096
    mels: int = 80
    positions: int = 5000
    activation: str = "relu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads or self.width % 2:
            raise ConfigError(f"whale: width {self.width} must be even and a multiple of its {self.heads} heads")
        if features_of(self.mels) < 1:
            raise ConfigError(f"whale: expected at least 7 bins, found {self.mels}")

    def build(self) -> WhaleEncoder:
        return WhaleEncoder(self)


def sinusoids(length: int, width: int) -> Tensor:
    """[length, width]: sines at even places, cosines at odd ones, periods 2 pi .. 2 pi 10^4."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


class WhaleAttention(nn.Module):
    """`[N, S, D] -> [N, S, D]`; positions [S, D] enter the scores through a linear map of their own."""

    def __init__(self, config: WhaleEncoderConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Linear(width, width) for _ in range(4))
        self.pos_proj = Linear(width, width, bias=False)
        self.content_bias, self.position_bias = (
            nn.Parameter(torch.zeros(config.heads, width // config.heads)) for _ in range(2)
        )

    def forward(self, x: Tensor, positions: Tensor, mask: PreparedMask | None) -> Tensor:
        q, k, v, p = (
            each.unflatten(-1, (self.heads, -1))
            for each in (self.q_proj(x), self.k_proj(x), self.v_proj(x), self.pos_proj(positions)[None])
        )
        # One product of twice the width is the sum of both scores.
        queries = torch.cat((q + self.content_bias, q + self.position_bias), -1)
        keys = torch.cat((k, p.expand_as(k)), -1)
        q, k, v = (each.transpose(1, 2) for each in (queries, keys, v))
        return self.o_proj(attend(q, k, v, mask, v.shape[-1] ** -0.5).transpose(1, 2).flatten(2))


class WhaleBlock(nn.Module):
    """`x + attn(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, config: WhaleEncoderConfig) -> None:
        super().__init__()
        norm = LayerNormConfig(eps=config.eps)
        self.attn_norm, self.mlp_norm = norm.build(config.width), norm.build(config.width)
        self.attn = WhaleAttention(config)
        self.mlp = MLPConfig(width=config.width, ffn_width=config.ffn_width, activation=config.activation).build()

    def forward(self, x: Tensor, positions: Tensor, mask: PreparedMask | None) -> Tensor:
        x = x + self.attn(self.attn_norm(x), positions, mask)
        return x + self.mlp(self.mlp_norm(x))


class WhaleEncoder(nn.Module):
    """See the module docstring for the flow."""

    positions: Tensor
    mean: Tensor
    istd: Tensor

    def __init__(self, config: WhaleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("istd", torch.ones(config.mels))
        self.conv1 = nn.Conv2d(1, width, 3, 2)
        self.conv2 = nn.Conv2d(width, width, 3, 2)
        self.conv_proj = Linear(width * features_of(config.mels), width)
        self.in_proj = Linear(width, width)
        self.in_norm = LayerNormConfig().build(width)
        computed_buffer(self, "positions", lambda: sinusoids(config.positions, width), persistent=False)
        self.blocks = nn.ModuleList(WhaleBlock(config) for _ in range(config.depth))
        self.norm = LayerNormConfig(eps=config.eps).build(width)

    def forward(self, audios: Tensor, lengths: Lengths | None = None) -> list[Tensor]:
        """audios float [N, frames, mels], lengths: frames of each; None: no padding -> N of [s, D].

        Raises MediaError for lengths that do not fit, and for recordings too short or too long.
        """
        counts = self._counts(audios, lengths)
        x = ((audios - self.mean) * self.istd).to(self.conv1.weight.dtype)
        x = torch.relu(self.conv2(torch.relu(self.conv1(x[:, None]))))
        x = self.conv_proj(x.transpose(1, 2).flatten(2))
        x = torch.relu(self.in_norm(self.in_proj(x))) * math.sqrt(self.config.width)
        positions, mask = self.positions[: x.shape[1]].to(x.dtype), None
        if min(counts) < x.shape[1]:
            inside = torch.arange(x.shape[1], device=x.device) < torch.tensor(counts, device=x.device)[:, None]
            mask = MaskSpec(causal=False, attention_mask=inside).prepare(x.shape[1], x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, positions, mask)
        return [item[:count] for item, count in zip(self.norm(x), counts, strict=True)]

    def _counts(self, audios: Tensor, lengths: Lengths | None) -> list[int]:
        """Features of each recording."""
        frames = [audios.shape[1]] * len(audios) if lengths is None else [int(each) for each in lengths]
        if len(frames) != len(audios) or max(frames, default=0) > audios.shape[1]:
            raise MediaError(
                f"Whale encoder: expected {len(audios)} lengths, at most {audios.shape[1]}; found {frames}"
            )
        counts = [features_of(each) for each in frames]
        if min(counts) < 1 or features_of(audios.shape[1]) > self.config.positions:
            raise MediaError(
                f"Whale encoder: recordings of 7 to {4 * self.config.positions + 6} frames are read, found {frames}"
            )
        return counts


def published_keys() -> KeyTable:
    """The published names (under `model.audio_encoder.encoder.`) -> ours."""
    layer, block = "enc.1.encoders.{}", "blocks.{}"
    linears = {"enc.0.core.conv.0": "conv1", "enc.0.core.conv.2": "conv2", "enc.0.core.out.0": "conv_proj",
               "enc.1.embed.0": "in_proj", "enc.1.embed.1": "in_norm", "enc.1.after_norm": "norm",
               f"{layer}.norm1": f"{block}.attn_norm", f"{layer}.norm2": f"{block}.mlp_norm",
               f"{layer}.feed_forward.w_1": f"{block}.mlp.up_proj",
               f"{layer}.feed_forward.w_2": f"{block}.mlp.down_proj",
               **{f"{layer}.self_attn.linear_{a}": f"{block}.attn.{b}_proj"
                  for a, b in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o"))}}  # fmt: skip
    names = {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in linears.items() for leaf in ("weight", "bias")}
    names |= {
        "global_cmvn.mean": "mean",
        "global_cmvn.istd": "istd",
        f"{layer}.self_attn.linear_pos.weight": f"{block}.attn.pos_proj.weight",
        f"{layer}.self_attn.pos_bias_u": f"{block}.attn.content_bias",
        f"{layer}.self_attn.pos_bias_v": f"{block}.attn.position_bias",
    }
    return KeyTable.of(dict(names))
