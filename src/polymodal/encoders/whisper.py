"""Whisper's audio encoder (arXiv 2212.04356, section 2.2): log-mel frames -> one feature per 20 ms.

    audio_values [N, mels, 3000] -> conv 3 -> GELU -> conv 3, stride 2 -> GELU -> + sinusoidal positions
        -> depth x (attention, MLP; both pre-norm) -> LayerNorm -> features [N, 1500, D]

The positions are fixed, but published files store them rounded to half precision: they are loaded, not recomputed.
Traps: keys have no bias; the GELU is exact; the input is always 30 s, shorter audio must be padded first (`trimmed`
removes the features of the padding); large-v3 and turbo use 128 mel bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import MediaError
from polymodal.nn.attention import Attention, AttentionConfig, AttentionLinears
from polymodal.nn.computed import computed_buffer
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mask import PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

FRAMES_PER_SECOND = 100  # hop of 160 samples at 16 kHz


@dataclass(frozen=True, kw_only=True)
class WhisperEncoderConfig:
    """`frames`: mel frames per window (10 ms each); two frames give one feature."""

    width: int
    depth: int
    heads: int
    mels: int = 80
    frames: int = 3000
    ffn_width: int | None = None

    @property
    def tokens(self) -> int:
        """Features per window."""
        return self.frames // 2

    def tokens_in(self, seconds: float) -> int:
        """Features for `seconds` of audio: at least one, at most a full window."""
        return min(max(math.ceil(seconds * FRAMES_PER_SECOND / 2), 1), self.tokens)

    def build(self) -> WhisperEncoder:
        return WhisperEncoder(self)


def whisper_attention(width: int, heads: int, source_width: int | None = None) -> Attention:
    """Attention with biases on q, v and the output, but not on the keys."""
    linears = AttentionLinears(k=LinearConfig(bias=False))
    return AttentionConfig(
        width=width, heads=heads, qkv_bias=True, out_bias=True, source_width=source_width, linears=linears
    ).build()


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions `[length, width]`: first half sines, second half cosines, periods 2 pi .. 2 pi 10^4."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(half - 1, 1)))
    angles = torch.arange(length)[:, None] * frequencies[None, :]
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class WhisperEncoderBlock(nn.Module):
    """`x + attn(norm(x))`, then `x + mlp(norm(x))`; `[N, S, D] -> [N, S, D]`, bidirectional attention."""

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.attn_norm = LayerNormConfig().build(width)
        self.attn = whisper_attention(width, config.heads)
        self.mlp_norm = LayerNormConfig().build(width)
        self.mlp = MLPConfig(width=width, ffn_width=config.ffn_width or 4 * width).build()

    def forward(self, x: Tensor, mask: PreparedMask | None = None) -> Tensor:
        x = x + self.attn(self.attn_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class WhisperEncoder(nn.Module):
    """`audio_values [N, mels, frames]` (log-mel, `data.mel.log_mel`) -> features `[N, frames / 2, D]`."""

    positions: Tensor

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.mels, config.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, kernel_size=3, stride=2, padding=1)
        computed_buffer(self, "positions", lambda: sinusoids(config.tokens, config.width))
        self.blocks = nn.ModuleList(WhisperEncoderBlock(config) for _ in range(config.depth))
        self.norm = LayerNormConfig().build(config.width)

    def forward(self, audio_values: Tensor) -> Tensor:
        """Raises MediaError unless the spectrogram is exactly one window long."""
        expected = (self.config.mels, self.config.frames)
        if audio_values.dim() != 3 or tuple(audio_values.shape[1:]) != expected:
            raise MediaError(
                f"Whisper encoder: expected log-mel [N, {expected[0]}, {expected[1]}], found "
                f"{list(audio_values.shape)}; pad the audio to {self.config.frames / FRAMES_PER_SECOND:g} s first"
            )
        x = F.gelu(self.conv2(F.gelu(self.conv1(audio_values)))).transpose(1, 2)
        x = x + self.positions.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def trimmed(self, audio_values: Tensor, seconds: Sequence[float]) -> list[Tensor]:
        """Features without those of the padding: one tensor `[tokens_in(seconds[i]), D]` per item.

        `seconds`: duration of each clip before padding.
        """
        features = self(audio_values)
        return [item[: self.config.tokens_in(length)] for item, length in zip(features, seconds, strict=True)]


_LARGE = WhisperEncoderConfig(width=1280, depth=32, heads=20)
_LARGE_128 = WhisperEncoderConfig(width=1280, depth=32, heads=20, mels=128)

WHISPER_ENCODERS: dict[str, WhisperEncoderConfig] = {
    "tiny": WhisperEncoderConfig(width=384, depth=4, heads=6),
    "base": WhisperEncoderConfig(width=512, depth=6, heads=8),
    "small": WhisperEncoderConfig(width=768, depth=12, heads=12),
    "medium": WhisperEncoderConfig(width=1024, depth=24, heads=16),
    "large-v1": _LARGE,
    "large-v2": _LARGE,
    "large-v3": _LARGE_128,
    "turbo": _LARGE_128,
}


def _pairs(names: dict[str, str], kinds: Sequence[str] = ("weight", "bias")) -> dict[str, str]:
    return {f"{source}.{kind}": f"{target}.{kind}" for source, target in names.items() for kind in kinds}


_STEM = _pairs({"conv1": "conv1", "conv2": "conv2"})

# Names in the published .pt files, under `encoder.`.
OPENAI_KEYS = KeyTable.of(
    {
        **_STEM,
        "positional_embedding": "positions",
        **_pairs(
            {
                f"blocks.{{}}.attn.{a}": f"blocks.{{}}.attn.{b}_proj"
                for a, b in (("query", "q"), ("value", "v"), ("out", "o"))
            }
        ),
        "blocks.{}.attn.key.weight": "blocks.{}.attn.k_proj.weight",
        **_pairs({"blocks.{}.attn_ln": "blocks.{}.attn_norm", "blocks.{}.mlp_ln": "blocks.{}.mlp_norm"}),
        **_pairs({"blocks.{}.mlp.0": "blocks.{}.mlp.up_proj", "blocks.{}.mlp.2": "blocks.{}.mlp.down_proj"}),
        **_pairs({"ln_post": "norm"}),
    }
)

# Names in transformers' Whisper, under `model.encoder.`.
HF_KEYS = KeyTable.of(
    {
        **_STEM,
        "embed_positions.weight": "positions",
        **_pairs(
            {
                f"layers.{{}}.self_attn.{a}_proj": f"blocks.{{}}.attn.{b}_proj"
                for a, b in (("q", "q"), ("v", "v"), ("out", "o"))
            }
        ),
        "layers.{}.self_attn.k_proj.weight": "blocks.{}.attn.k_proj.weight",
        **_pairs(
            {
                "layers.{}.self_attn_layer_norm": "blocks.{}.attn_norm",
                "layers.{}.final_layer_norm": "blocks.{}.mlp_norm",
            }
        ),
        **_pairs({"layers.{}.fc1": "blocks.{}.mlp.up_proj", "layers.{}.fc2": "blocks.{}.mlp.down_proj"}),
        **_pairs({"layer_norm": "norm"}),
    }
)
