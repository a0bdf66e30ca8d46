"""The simplest connector: one linear map from encoder width to backbone width (LLaVA 1.0, MiniGPT-4).

Flow
    features [N, S, Din] -> proj -> [N, S, Dout]

`ConnectorConfig` is the protocol of connector configs; the widths are passed to `build`.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from polymodal.nn.linear import LinearConfig


class ConnectorConfig(Protocol):
    """Config of a connector between an encoder and a backbone.

    `build` returns a module that maps features [N, S, Din] to [N, Q, Dout]; `tokens` returns Q for S.
    """

    def build(self, in_width: int, out_width: int) -> nn.Module: ...

    def tokens(self, n_in: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class LinearConnectorConfig:
    """One linear map, applied to every feature."""

    bias: bool = True

    def build(self, in_width: int, out_width: int) -> "LinearConnector":
        """Build the connector with fresh weights."""
        return LinearConnector(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return n_in


class LinearConnector(nn.Module):
    """`[N, S, Din] -> [N, S, Dout]`"""

    def __init__(self, config: LinearConnectorConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.proj = LinearConfig().build(in_width, out_width, config.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Project float [N, S, Din] to [N, S, Dout]."""
        return self.proj(features)
