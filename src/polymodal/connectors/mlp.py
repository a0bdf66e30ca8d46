"""The MLP connector of LLaVA-1.5 (arXiv 2310.03744) and many others.

Flow
    features [N, S, Din] -> (norm) -> layers.0 -> activation -> layers.1 ... -> [N, S, Dout]

The defaults are LLaVA-1.5's (two layers, exact GELU, no norm); InternVL adds a layer norm before them.
Trap: published files number linears and activations together (`mm_projector.0`, `.2`); here only linears are numbered.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.activation import activation
from polymodal.nn.linear import LinearConfig
from polymodal.nn.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class MLPConnectorConfig:
    """`depth` linears; `hidden_width`: width between them (default: the output width)."""

    depth: int = 2
    hidden_width: int | None = None
    activation: str = "gelu"
    bias: bool = True
    norm: NormConfig | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"mlp connector: depth must be at least 1, found {self.depth}")

    def build(self, in_width: int, out_width: int) -> "MLPConnector":
        """Build the connector with fresh weights."""
        return MLPConnector(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return n_in


class MLPConnector(nn.Module):
    """`[N, S, Din] -> [N, S, Dout]`"""

    def __init__(self, config: MLPConnectorConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        inner = config.hidden_width or out_width
        widths = (in_width, *(inner,) * (config.depth - 1), out_width)
        self.norm = None if config.norm is None else config.norm.build(in_width)
        self.layers = nn.ModuleList(LinearConfig().build(a, b, config.bias) for a, b in pairwise(widths))
        self.act = activation(config.activation)

    def forward(self, features: Tensor) -> Tensor:
        """Map float [N, S, Din] to [N, S, Dout]."""
        x = features if self.norm is None else self.norm(features)
        x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(self.act(x))
        return x
