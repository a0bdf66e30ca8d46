"""Feed-forward layers: plain (two linears) and gated (SwiGLU/GeGLU, arXiv 2002.05202).

MLP       x -> up_proj -> activation -> down_proj
GatedMLP  x -> activation(gate_proj) * up_proj -> down_proj
"""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from polymodal.nn.activation import activation
from polymodal.nn.linear import LinearConfig, ProjectionConfig


class FeedForwardConfig(Protocol):
    """Config of a block's ``mlp``: ``build()`` returns a module called as ``f(x, token_types)``."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Two linears, ``width -> ffn_width -> out_width`` (``out_width`` defaults to ``width``).

    ``down``: config of the second linear, if it differs from the first (Magneto puts a norm before it).
    """

    width: int
    ffn_width: int
    out_width: int | None = None
    activation: str = "gelu"
    bias: bool = True
    linear: ProjectionConfig = field(default_factory=LinearConfig)
    down: ProjectionConfig | None = None

    def build(self) -> "MLP":
        return MLP(self)


class MLP(nn.Module):
    """``[..., D] -> [..., D']``"""

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.config = config
        self.up_proj = config.linear.build(config.width, config.ffn_width, config.bias)
        down = config.down or config.linear
        self.down_proj = down.build(config.ffn_width, config.out_width or config.width, config.bias)
        self.act = activation(config.activation)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x, token_types)), token_types)


@dataclass(frozen=True, kw_only=True)
class GatedMLPConfig:
    """Three linears; ``activation`` is applied to the gate branch.  ``down``: as for MLPConfig."""

    width: int
    ffn_width: int
    activation: str = "silu"
    bias: bool = False
    linear: ProjectionConfig = field(default_factory=LinearConfig)
    down: ProjectionConfig | None = None

    def build(self) -> "GatedMLP":
        return GatedMLP(self)


class GatedMLP(nn.Module):
    """``[..., D] -> [..., D]``"""

    gate_up_proj: nn.Module | None

    def __init__(self, config: GatedMLPConfig):
        super().__init__()
        self.config = config
        self.gate_proj = config.linear.build(config.width, config.ffn_width, config.bias)
        self.up_proj = config.linear.build(config.width, config.ffn_width, config.bias)
        self.gate_up_proj = None
        self.down_proj = (config.down or config.linear).build(config.ffn_width, config.width, config.bias)
        self.act = activation(config.activation)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        if self.gate_up_proj is not None:
            gate, up = self.gate_up_proj(x, token_types).chunk(2, -1)
        else:
            gate, up = self.gate_proj(x, token_types), self.up_proj(x, token_types)
        return self.down_proj(self.act(gate) * up, token_types)
