"""A strided convolution between a sound encoder and a language model (VITA, arXiv 2408.05211).

Flow
    N of [s, Din] -> zeros behind each -> convolution over time [ceil(s / stride), Dh] -> norm -> activation -> linear
    -> N of [ceil(s / stride), Dout]

Trap: the padding is all behind (`kernel - 1` zeros), so that each output looks ahead and none back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.errors import ConfigError
from polymodal.nn.activation import activation
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig, NormConfig


@dataclass(frozen=True, kw_only=True)
class StridedConvConfig:
    """`widening`: channels out of the convolution for each one in."""

    kernel: int = 5
    stride: int = 2
    widening: int = 2
    activation: str = "gelu"
    norm: NormConfig = field(default_factory=lambda: LayerNormConfig(eps=1e-3))

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.stride < 1 or self.widening < 1:
            raise ConfigError(f"strided conv: expected kernel, stride and widening of 1 or more, found {self}")

    def build(self, in_width: int, out_width: int) -> StridedConv:
        """Build the connector with fresh weights."""
        return StridedConv(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return (n_in - 1) // self.stride + 1


class StridedConv(nn.Module):
    """N of `[s, Din]` -> N of `[ceil(s / stride), Dout]`"""

    def __init__(self, config: StridedConvConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        inner = config.widening * in_width
        self.conv = nn.Conv1d(in_width, inner, config.kernel, config.stride)
        self.norm = config.norm.build(inner)
        self.act = activation(config.activation)
        self.out_proj = Linear(inner, out_width)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Items of any lengths, padded to one convolution and cut to their own tokens."""
        padded = pad_sequence(list(features), batch_first=True).transpose(1, 2)
        x = self.conv(F.pad(padded, (0, self.config.kernel - 1))).transpose(1, 2)
        x = self.out_proj(self.act(self.norm(x)))
        counts = (self.config.tokens(len(item)) for item in features)
        return [item[:count] for item, count in zip(x, counts, strict=True)]
